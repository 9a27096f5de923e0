//! Frames between the supervisor and a child: `u32` little-endian length, one byte of kind, payload.
//!
//! Both ends use this file: the pool here, and the child through the bridge. Nothing is trusted: every
//! length is checked against what is left of the frame, and the frame against a limit.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};

use crate::protocol::{ChordPart, Message, Properties, Publication, Queue, ResultRecord};
use crate::worker::pool::{Execution, Join, Mode, Outcome, OutcomeKind, RequestTag};

/// Frames are never larger than this.
pub const MAX_FRAME_BYTES: usize = 1 << 30;

/// Set in the tag of a request that is concluded in a child of several slots: the run of it that was given up may
/// still go on there, under the tag without it.
pub const CONCLUSION: RequestTag = 1 << 63;

/// The mode of a batch, and where the byte of mode is in the payload of an execution: behind the tag.
const BATCH: u8 = 7;
const MODE_AT: usize = 8;

/// Bytes before the payload: length and kind.
const HEAD: usize = 5;
/// What is made free for a read at the least.
const READ_BYTES: usize = 64 * 1024;

const EXECUTION: u8 = b'E';
const RECLAIM: u8 = b'C';
const SOFT_LIMIT: u8 = b'L';
const STOP: u8 = b'S';
const READY: u8 = b'R';
const OUTCOME: u8 = b'O';
const UPDATE: u8 = b'U';
const RETURNED: u8 = b'B';
const BEGAN: u8 = b'N';
const CANCEL: u8 = b'X';
const SLOTS: u8 = b'Z';

/// One frame.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// To the child: run this.
    Execution(Box<Execution>),
    /// To the child: hand back those of these that have not begun. Always answered by `Returned`.
    Reclaim(Vec<RequestTag>),
    /// To the child: the soft limit of this request has passed; to a child of one slot SIGUSR1 follows.
    SoftLimit(RequestTag),
    /// To a child of several slots: end this request. Its answer is nobody's, but tells that its slot is free.
    Cancel(RequestTag),
    /// To a child of several slots: so many requests may run at the same time.
    Slots(u64),
    /// To the child: end when what you have is done.
    Stop,
    /// From the child: it is set up, and what it is given begins now. Sent once, before anything else.
    Ready,
    /// From the child: a request ended.
    Outcome(RequestTag, Outcome),
    /// From the child: a state to store while the request runs.
    Update(RequestTag, ResultRecord),
    /// From the child: these have not begun and will not.
    Returned(Vec<RequestTag>),
    /// From a child of several slots: these begin now.
    Began(Vec<RequestTag>),
}

/// A request for a child as it came: its fields are read where they are needed, and borrowed.
#[derive(Clone, Debug)]
pub struct Packed {
    tag: RequestTag,
    payload: Bytes,
}

/// What a [`Packed`] says.
#[derive(Debug)]
pub struct Unpacked<'a> {
    /// See [`Execution::mode`].
    pub mode: Mode,
    /// See [`Execution::redelivered`].
    pub redelivered: bool,
    /// See [`Execution::short`].
    pub short: bool,
    /// See [`Execution::soft_limit`].
    pub soft_limit: Option<Duration>,
    /// See [`Execution::hard_limit`].
    pub hard_limit: Option<Duration>,
    /// See [`Execution::queue`].
    pub queue: Option<&'a str>,
    /// See [`Execution::exchange`].
    pub exchange: &'a str,
    /// See [`Execution::routing_key`].
    pub routing_key: &'a str,
    /// See [`Execution::message`].
    pub message: UnpackedMessage<'a>,
}

/// The message of an [`Unpacked`]; the fields are those of [`Message`] and [`Properties`].
#[derive(Debug)]
#[expect(missing_docs, reason = "they are documented there")]
pub struct UnpackedMessage<'a> {
    pub content_type: &'a str,
    pub content_encoding: &'a str,
    pub correlation_id: Option<&'a str>,
    pub reply_to: Option<&'a str>,
    pub delivery_mode: u8,
    pub priority: Option<u8>,
    pub expiration_ms: Option<u64>,
    /// As JSON text; empty when there are none.
    pub other: &'a [u8],
    pub headers: &'a [u8],
    pub body: &'a [u8],
}

impl Packed {
    /// As it would be sent.
    pub fn new(execution: &Execution) -> Result<Self, FrameError> {
        let mut frame = Vec::new();
        encode_execution(execution, &mut frame)?;
        Ok(Self { tag: execution.tag, payload: Bytes::from(frame).slice(HEAD..) })
    }

    /// The request.
    pub fn tag(&self) -> RequestTag {
        self.tag
    }

    /// Whether it is a batch ([`Mode::Batch`]): told by its byte of mode, without reading it.
    pub fn is_batch(&self) -> bool {
        self.payload.get(MODE_AT) == Some(&BATCH)
    }

    /// The requests of a batch; none of anything else.
    pub fn members(&self) -> Result<Vec<Self>, FrameError> {
        if !self.is_batch() {
            return Ok(Vec::new());
        }
        let mut reader = Reader { kind: EXECUTION, whole: &self.payload, rest: &self.payload[MODE_AT + 1..] };
        let count = reader.u32()?;
        (0..count).map(|_| reader.member()).collect()
    }

    /// All but the tag.
    pub fn unpack(&self) -> Result<Unpacked<'_>, FrameError> {
        let mut reader = Reader { kind: EXECUTION, whole: &self.payload, rest: &self.payload };
        reader.u64()?;
        let unpacked = reader.unpacked()?;
        reader.end(unpacked)
    }
}

/// A frame, or a request for a child that was not read.
#[derive(Debug)]
pub enum Received {
    /// To the child: run this.
    Execution(Packed),
    /// Anything else.
    Other(Frame),
}

/// Why bytes are not frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The frame is larger than allowed.
    #[error("frame of {size} bytes is over the limit of {limit} bytes")]
    TooLarge {
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// The frame ends before its fields do, or goes on after them.
    #[error("frame of kind {0:?} has the wrong length")]
    Length(char),
    /// A field has a value that means nothing.
    #[error("frame of kind {0:?} has a field that cannot be read")]
    Field(char),
    /// No such kind.
    #[error("frame of unknown kind {0}")]
    Kind(u8),
}

/// Appends a request for a child.
pub fn encode_execution(execution: &Execution, out: &mut Vec<u8>) -> Result<(), FrameError> {
    frame(EXECUTION, out, |out| put_execution(execution, out))
}

/// The end of a request, lent by whoever has its parts; the fields are those of [`Outcome`].
#[derive(Debug)]
#[expect(missing_docs, reason = "they are documented there")]
pub struct Ended<'a, R, P> {
    pub kind: OutcomeKind,
    pub results: R,
    pub publications: P,
    pub runtime: Option<Duration>,
    pub summary: &'a str,
    pub traceback: &'a str,
    pub parts: &'a [ChordPart],
}

/// Appends the end of a request. When it is over the limit, nothing is appended.
pub fn encode_outcome(tag: RequestTag, outcome: &Outcome, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let Outcome { kind, results, publications, runtime, summary, traceback, parts } = outcome;
    let (results, publications) = (results.iter(), publications.iter());
    let ended = Ended { kind: *kind, results, publications, runtime: *runtime, summary, traceback, parts };
    encode_ended(tag, ended, out)
}

/// The same, of parts that need not be one [`Outcome`].
pub fn encode_ended<'a>(
    tag: RequestTag,
    ended: Ended<
        '_,
        impl ExactSizeIterator<Item = &'a ResultRecord>,
        impl ExactSizeIterator<Item = &'a Publication>,
    >,
    out: &mut Vec<u8>,
) -> Result<(), FrameError> {
    frame(OUTCOME, out, |out| {
        put_u64(tag, out);
        out.push(kind_code(ended.kind));
        put_duration(ended.runtime, out);
        put_bytes(ended.summary.as_bytes(), out);
        put_bytes(ended.traceback.as_bytes(), out);
        put_u32(ended.results.len(), out);
        for record in ended.results {
            put_record(record, out);
        }
        put_u32(ended.publications.len(), out);
        for publication in ended.publications {
            put_bytes(publication.exchange.as_bytes(), out);
            put_bytes(publication.routing_key.as_bytes(), out);
            put_option(publication.due_ms, out, |due, out| put_u64(due as u64, out));
            put_option(publication.declare.as_deref(), out, put_queue);
            put_message(&publication.message, out);
        }
        // Nearly always there are none, and then they take no room at all.
        for part in ended.parts {
            put_part(part, out);
        }
    })
}

/// Appends a state to store while the request runs.
pub fn encode_update(tag: RequestTag, record: &ResultRecord, out: &mut Vec<u8>) -> Result<(), FrameError> {
    frame(UPDATE, out, |out| {
        put_u64(tag, out);
        put_record(record, out);
    })
}

/// Appends the question for what has not begun.
pub fn encode_reclaim(tags: &[RequestTag], out: &mut Vec<u8>) {
    put_tags(RECLAIM, tags, out);
}

/// Appends the answer to a reclaim.
pub fn encode_returned(tags: &[RequestTag], out: &mut Vec<u8>) {
    put_tags(RETURNED, tags, out);
}

/// Appends the word that a soft limit has passed.
pub fn encode_soft_limit(tag: RequestTag, out: &mut Vec<u8>) {
    put_u32(8, out);
    out.push(SOFT_LIMIT);
    put_u64(tag, out);
}

/// Appends the word that requests begin.
pub fn encode_began(tags: &[RequestTag], out: &mut Vec<u8>) {
    put_tags(BEGAN, tags, out);
}

/// Appends the order to end one request.
pub fn encode_cancel(tag: RequestTag, out: &mut Vec<u8>) {
    put_tags(CANCEL, &[tag], out);
}

/// Appends how many requests may run at the same time.
pub fn encode_slots(slots: usize, out: &mut Vec<u8>) {
    put_tags(SLOTS, &[slots as u64], out);
}

/// Appends the order to end.
pub fn encode_stop(out: &mut Vec<u8>) {
    put_u32(0, out);
    out.push(STOP);
}

/// Appends the word that the child is set up.
pub fn encode_ready(out: &mut Vec<u8>) {
    put_u32(0, out);
    out.push(READY);
}

/// Turns bytes into frames. Fed by [`Decoder::feed`] or by reading into [`Decoder::buffer`].
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    limit: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new(MAX_FRAME_BYTES)
    }
}

impl Decoder {
    /// A decoder that refuses frames whose payload is over `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { buffer: BytesMut::new(), limit }
    }

    /// Takes bytes as they came.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Where to read the next bytes to (append only); has room for the frame that is being read.
    pub fn buffer(&mut self) -> &mut BytesMut {
        let missing = match self.announced() {
            Some(length) if length <= self.limit => (HEAD + length).saturating_sub(self.buffer.len()),
            _ => 0,
        };
        if self.buffer.capacity() - self.buffer.len() < missing.max(READ_BYTES / 4) {
            self.buffer.reserve(missing.max(READ_BYTES));
        }
        &mut self.buffer
    }

    /// The next whole frame; none when more bytes are needed. After an error the stream cannot be read on.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((kind, payload)) = self.next_payload()? else { return Ok(None) };
        Reader { kind, whole: &payload, rest: &payload }.frame().map(Some)
    }

    /// The same, for who reads requests later.
    pub fn next_received(&mut self) -> Result<Option<Received>, FrameError> {
        let Some((kind, payload)) = self.next_payload()? else { return Ok(None) };
        let mut reader = Reader { kind, whole: &payload, rest: &payload };
        if kind != EXECUTION {
            return Ok(Some(Received::Other(reader.frame()?)));
        }
        let tag = reader.u64()?;
        Ok(Some(Received::Execution(Packed { tag, payload })))
    }

    fn next_payload(&mut self) -> Result<Option<(u8, Bytes)>, FrameError> {
        let Some(length) = self.announced() else { return Ok(None) };
        if length > self.limit {
            return Err(FrameError::TooLarge { size: length, limit: self.limit });
        }
        if self.buffer.len() < HEAD + length {
            return Ok(None);
        }
        let kind = self.buffer[4];
        let mut frame = self.buffer.split_to(HEAD + length).freeze();
        frame.advance(HEAD);
        Ok(Some((kind, frame)))
    }

    fn announced(&self) -> Option<usize> {
        let head = self.buffer.get(..HEAD)?;
        Some(u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize)
    }
}

/// Reads the fields of one frame, in order.
struct Reader<'a> {
    kind: u8,
    /// The payload.
    whole: &'a Bytes,
    /// What of it is not read yet.
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn frame(mut self) -> Result<Frame, FrameError> {
        let frame = match self.kind {
            EXECUTION => Frame::Execution(Box::new(self.execution()?)),
            RECLAIM => Frame::Reclaim(self.tags()?),
            RETURNED => Frame::Returned(self.tags()?),
            BEGAN => Frame::Began(self.tags()?),
            SOFT_LIMIT => Frame::SoftLimit(self.u64()?),
            CANCEL => Frame::Cancel(self.u64()?),
            SLOTS => Frame::Slots(self.u64()?),
            STOP => Frame::Stop,
            READY => Frame::Ready,
            OUTCOME => Frame::Outcome(self.u64()?, self.outcome()?),
            UPDATE => Frame::Update(self.u64()?, self.record()?),
            other => return Err(FrameError::Kind(other)),
        };
        self.end(frame)
    }

    /// Nothing may be left.
    fn end<T>(&self, read: T) -> Result<T, FrameError> {
        if self.rest.is_empty() { Ok(read) } else { Err(self.wrong_length()) }
    }

    fn execution(&mut self) -> Result<Execution, FrameError> {
        let tag = self.u64()?;
        let Unpacked {
            mode,
            redelivered,
            short,
            queue,
            soft_limit,
            hard_limit,
            exchange,
            routing_key,
            message,
        } = self.unpacked()?;
        Ok(Execution {
            tag,
            mode,
            redelivered,
            short,
            soft_limit,
            hard_limit,
            queue: queue.map(Arc::from),
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            message: Arc::new(self.owned(&message)?),
        })
    }

    fn unpacked(&mut self) -> Result<Unpacked<'a>, FrameError> {
        let mode = match self.u8()? {
            0 => Mode::Run,
            1 => Mode::TimedOut(f64::from_bits(self.u64()?)),
            2 => Mode::Lost(self.text()?.to_owned()),
            3 => Mode::Revoked(self.text()?.to_owned()),
            4 => Mode::Unknown,
            5 => Mode::Join(Arc::new(self.join()?)),
            6 => Mode::Refused(self.text()?.to_owned()),
            BATCH => Mode::Batch(self.batch()?),
            _ => return Err(self.wrong_field()),
        };
        let flags = self.u8()?;
        Ok(Unpacked {
            mode,
            redelivered: flags & 1 != 0,
            short: flags & 2 != 0,
            queue: if flags & 4 == 0 { None } else { Some(self.text()?) },
            soft_limit: self.duration()?,
            hard_limit: self.duration()?,
            exchange: self.text()?,
            routing_key: self.text()?,
            message: self.unpacked_message()?,
        })
    }

    fn batch(&mut self) -> Result<Arc<[Execution]>, FrameError> {
        let count = self.u32()?;
        let member = |_| {
            let Packed { tag, payload } = self.member()?;
            let mut reader = Reader { kind: EXECUTION, whole: &payload, rest: &payload };
            let execution = reader.execution()?;
            reader.end(Execution { tag, ..execution })
        };
        (0..count).map(member).collect()
    }

    /// One request of a batch, as it came. None of them is a batch itself, so that nothing can be nested deeply.
    fn member(&mut self) -> Result<Packed, FrameError> {
        let payload = self.bytes()?;
        let tag = payload.get(..MODE_AT).and_then(|tag| tag.try_into().ok()).map(u64::from_le_bytes);
        let packed = Packed { tag: tag.ok_or_else(|| self.wrong_length())?, payload };
        if packed.is_batch() { Err(self.wrong_field()) } else { Ok(packed) }
    }

    fn outcome(&mut self) -> Result<Outcome, FrameError> {
        let code = self.u8()?;
        let kind = kind_of(code).ok_or(FrameError::Field(self.kind as char))?;
        let runtime = self.duration()?;
        let summary = self.text()?.to_owned();
        let traceback = self.text()?.to_owned();
        let mut results = Vec::new();
        for _ in 0..self.u32()? {
            results.push(self.record()?);
        }
        let mut publications = Vec::new();
        for _ in 0..self.u32()? {
            publications.push(Publication {
                exchange: self.text()?.to_owned(),
                routing_key: self.text()?.to_owned(),
                due_ms: self.option(|reader| reader.u64().map(|due| due as i64))?,
                declare: self.option(Self::queue)?.map(Arc::new),
                message: self.message()?,
            });
        }
        let mut parts = Vec::new();
        while !self.rest.is_empty() {
            parts.push(self.part()?);
        }
        Ok(Outcome { kind, results, publications, runtime, summary, traceback, parts })
    }

    fn join(&mut self) -> Result<Join, FrameError> {
        let group_id = self.text()?.to_owned();
        let mut elements = Vec::new();
        for _ in 0..self.u32()? {
            elements.push(self.bytes()?);
        }
        let group = self.option(Self::bytes)?;
        let broken = self.option(Self::text)?.map(str::to_owned);
        Ok(Join { group_id, elements, group, broken })
    }

    fn part(&mut self) -> Result<ChordPart, FrameError> {
        Ok(ChordPart {
            group_id: self.text()?.to_owned(),
            task_id: self.text()?.to_owned(),
            group_index: self.option(|reader| reader.u64().map(|index| index as i64))?,
            state: self.text()?.to_owned(),
            element: self.bytes()?,
            expires_ms: self.option(Self::u64)?,
            group_expires_ms: self.option(Self::u64)?,
            claim_ms: self.u64()?,
        })
    }

    fn record(&mut self) -> Result<ResultRecord, FrameError> {
        Ok(ResultRecord {
            task_id: self.text()?.to_owned(),
            state: self.text()?.to_owned(),
            record: self.bytes()?,
            content_type: self.text()?.to_owned(),
            expires_ms: self.option(Self::u64)?,
            reply_to: None,
            retain: None,
        })
    }

    fn message(&mut self) -> Result<Message, FrameError> {
        let message = self.unpacked_message()?;
        self.owned(&message)
    }

    fn unpacked_message(&mut self) -> Result<UnpackedMessage<'a>, FrameError> {
        Ok(UnpackedMessage {
            content_type: self.text()?,
            content_encoding: self.text()?,
            correlation_id: self.option(Self::text)?,
            reply_to: self.option(Self::text)?,
            delivery_mode: self.u8()?,
            priority: self.option(Self::u8)?,
            expiration_ms: self.option(Self::u64)?,
            other: self.slice()?,
            headers: self.slice()?,
            body: self.slice()?,
        })
    }

    fn owned(&self, message: &UnpackedMessage<'a>) -> Result<Message, FrameError> {
        let other = if message.other.is_empty() {
            serde_json::Map::new()
        } else {
            serde_json::from_slice(message.other).map_err(|_| self.wrong_field())?
        };
        let properties = Properties {
            content_type: message.content_type.to_owned(),
            content_encoding: message.content_encoding.to_owned(),
            correlation_id: message.correlation_id.map(str::to_owned),
            reply_to: message.reply_to.map(str::to_owned),
            delivery_mode: message.delivery_mode,
            priority: message.priority,
            expiration_ms: message.expiration_ms,
            other,
        };
        let part = |part| self.whole.slice_ref(part);
        Ok(Message { properties, headers: part(message.headers), body: part(message.body) })
    }

    fn queue(&mut self) -> Result<Queue, FrameError> {
        let text = self.slice()?;
        serde_json::from_slice(text).map_err(|_| self.wrong_field())
    }

    fn tags(&mut self) -> Result<Vec<RequestTag>, FrameError> {
        let mut tags = Vec::with_capacity(self.rest.len() / 8);
        while !self.rest.is_empty() {
            tags.push(self.u64()?);
        }
        Ok(tags)
    }

    fn option<T>(
        &mut self,
        read: impl Fn(&mut Self) -> Result<T, FrameError>,
    ) -> Result<Option<T>, FrameError> {
        match self.u8()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(self.wrong_field()),
        }
    }

    fn duration(&mut self) -> Result<Option<Duration>, FrameError> {
        self.option(|reader| reader.u64().map(Duration::from_nanos))
    }

    fn text(&mut self) -> Result<&'a str, FrameError> {
        let bytes = self.slice()?;
        std::str::from_utf8(bytes).map_err(|_| self.wrong_field())
    }

    fn bytes(&mut self) -> Result<Bytes, FrameError> {
        self.slice().map(|slice| self.whole.slice_ref(slice))
    }

    fn slice(&mut self) -> Result<&'a [u8], FrameError> {
        let length = self.u32()? as usize;
        let (slice, rest) = self.rest.split_at_checked(length).ok_or_else(|| self.wrong_length())?;
        self.rest = rest;
        Ok(slice)
    }

    fn u8(&mut self) -> Result<u8, FrameError> {
        self.rest.try_get_u8().map_err(|_| self.wrong_length())
    }

    fn u32(&mut self) -> Result<u32, FrameError> {
        self.rest.try_get_u32_le().map_err(|_| self.wrong_length())
    }

    fn u64(&mut self) -> Result<u64, FrameError> {
        self.rest.try_get_u64_le().map_err(|_| self.wrong_length())
    }

    fn wrong_length(&self) -> FrameError {
        FrameError::Length(self.kind as char)
    }

    fn wrong_field(&self) -> FrameError {
        FrameError::Field(self.kind as char)
    }
}

/// Writes head and payload; takes all back when the payload is over the limit.
fn frame(kind: u8, out: &mut Vec<u8>, payload: impl FnOnce(&mut Vec<u8>)) -> Result<(), FrameError> {
    let start = out.len();
    put_u32(0, out);
    out.push(kind);
    payload(out);
    let size = out.len() - start - HEAD;
    if size > MAX_FRAME_BYTES {
        out.truncate(start);
        return Err(FrameError::TooLarge { size, limit: MAX_FRAME_BYTES });
    }
    out[start..start + 4].copy_from_slice(&(size as u32).to_le_bytes());
    Ok(())
}

fn put_execution(execution: &Execution, out: &mut Vec<u8>) {
    put_u64(execution.tag, out);
    match &execution.mode {
        Mode::Run => out.push(0),
        Mode::TimedOut(seconds) => {
            out.push(1);
            put_u64(seconds.to_bits(), out);
        }
        Mode::Lost(how) => {
            out.push(2);
            put_bytes(how.as_bytes(), out);
        }
        Mode::Revoked(why) => {
            out.push(3);
            put_bytes(why.as_bytes(), out);
        }
        Mode::Unknown => out.push(4),
        Mode::Join(join) => {
            out.push(5);
            put_join(join, out);
        }
        Mode::Refused(why) => {
            out.push(6);
            put_bytes(why.as_bytes(), out);
        }
        Mode::Batch(members) => {
            out.push(BATCH);
            put_u32(members.len(), out);
            for member in &**members {
                put_member(member, out);
            }
        }
    }
    let queue = u8::from(execution.queue.is_some()) << 2;
    out.push(u8::from(execution.redelivered) | (u8::from(execution.short) << 1) | queue);
    if let Some(queue) = &execution.queue {
        put_bytes(queue.as_bytes(), out);
    }
    put_duration(execution.soft_limit, out);
    put_duration(execution.hard_limit, out);
    put_bytes(execution.exchange.as_bytes(), out);
    put_bytes(execution.routing_key.as_bytes(), out);
    put_message(&execution.message, out);
}

/// Its length, and what is in a frame of its own.
fn put_member(member: &Execution, out: &mut Vec<u8>) {
    let start = out.len();
    put_u32(0, out);
    put_execution(member, out);
    // One that does not fit makes the whole frame larger than its limit.
    let size = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&size.to_le_bytes());
}

fn put_tags(kind: u8, tags: &[RequestTag], out: &mut Vec<u8>) {
    put_u32(tags.len() * 8, out);
    out.push(kind);
    for tag in tags {
        put_u64(*tag, out);
    }
}

fn put_message(message: &Message, out: &mut Vec<u8>) {
    let properties = &message.properties;
    put_bytes(properties.content_type.as_bytes(), out);
    put_bytes(properties.content_encoding.as_bytes(), out);
    put_option(properties.correlation_id.as_ref(), out, |text, out| put_bytes(text.as_bytes(), out));
    put_option(properties.reply_to.as_ref(), out, |text, out| put_bytes(text.as_bytes(), out));
    out.push(properties.delivery_mode);
    put_option(properties.priority, out, |priority, out| out.push(priority));
    put_option(properties.expiration_ms, out, put_u64);
    if properties.other.is_empty() {
        put_u32(0, out);
    } else {
        let text = serde_json::to_vec(&properties.other).expect("a JSON map can always be written");
        put_bytes(&text, out);
    }
    put_bytes(&message.headers, out);
    put_bytes(&message.body, out);
}

fn put_queue(queue: &Queue, out: &mut Vec<u8>) {
    put_bytes(&serde_json::to_vec(queue).expect("a queue can always be written"), out);
}

fn put_record(record: &ResultRecord, out: &mut Vec<u8>) {
    put_bytes(record.task_id.as_bytes(), out);
    put_bytes(record.state.as_bytes(), out);
    put_bytes(&record.record, out);
    put_bytes(record.content_type.as_bytes(), out);
    put_option(record.expires_ms, out, put_u64);
}

fn put_join(join: &Join, out: &mut Vec<u8>) {
    put_bytes(join.group_id.as_bytes(), out);
    put_u32(join.elements.len(), out);
    for element in &join.elements {
        put_bytes(element, out);
    }
    put_option(join.group.as_ref(), out, |record, out| put_bytes(record, out));
    put_option(join.broken.as_ref(), out, |why, out| put_bytes(why.as_bytes(), out));
}

fn put_part(part: &ChordPart, out: &mut Vec<u8>) {
    put_bytes(part.group_id.as_bytes(), out);
    put_bytes(part.task_id.as_bytes(), out);
    put_option(part.group_index, out, |index, out| put_u64(index as u64, out));
    put_bytes(part.state.as_bytes(), out);
    put_bytes(&part.element, out);
    put_option(part.expires_ms, out, put_u64);
    put_option(part.group_expires_ms, out, put_u64);
    put_u64(part.claim_ms, out);
}

fn put_option<T>(value: Option<T>, out: &mut Vec<u8>, put: impl FnOnce(T, &mut Vec<u8>)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(value, out);
    }
}

fn put_duration(duration: Option<Duration>, out: &mut Vec<u8>) {
    let nanos = duration.map(|duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    put_option(nanos, out, put_u64);
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_u32(bytes.len(), out);
    out.extend_from_slice(bytes);
}

/// A length that does not fit makes the frame larger than its limit, which [`frame`] refuses.
fn put_u32(value: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_u64(value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&value.to_le_bytes());
}

const KINDS: [OutcomeKind; 10] = [
    OutcomeKind::Success,
    OutcomeKind::Failure,
    OutcomeKind::Retry,
    OutcomeKind::Ignored,
    OutcomeKind::Rejected,
    OutcomeKind::Requeued,
    OutcomeKind::Revoked,
    OutcomeKind::Malformed,
    OutcomeKind::Disallowed,
    OutcomeKind::DeadLettered,
];

fn kind_code(kind: OutcomeKind) -> u8 {
    KINDS.iter().position(|known| *known == kind).expect("every kind is listed") as u8
}

fn kind_of(code: u8) -> Option<OutcomeKind> {
    KINDS.get(usize::from(code)).copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(body: Vec<u8>, id: Option<String>, priority: Option<u8>) -> Message {
        let mut properties = Properties {
            content_type: "application/json".into(),
            correlation_id: id,
            priority,
            ..Properties::default()
        };
        properties.other.insert("user_id".into(), "me".into());
        Message { headers: Bytes::from_static(b"{\"task\":\"t\"}"), properties, body: body.into() }
    }

    fn part(group_index: Option<i64>) -> ChordPart {
        ChordPart {
            group_id: "g".into(),
            task_id: "t".into(),
            group_index,
            state: "FAILURE".into(),
            element: Bytes::from_static(b"[1]"),
            expires_ms: Some(7),
            group_expires_ms: None,
            claim_ms: 6000,
        }
    }

    fn joined() -> Join {
        let elements = vec![Bytes::from_static(b"[1]"), Bytes::new()];
        let group = Some(Bytes::from_static(b"{}"));
        Join { group_id: "g".into(), elements, group, broken: Some("why".into()) }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_however_it_is_cut(
            tag: u64,
            body: Vec<u8>,
            id: Option<String>,
            priority: Option<u8>,
            soft in proptest::option::of(0u64..1 << 60),
            kind in 0usize..10,
            cut in 1usize..50,
        ) {
            let execution = Execution {
                tag,
                mode: Mode::Lost("signal 9 (SIGKILL)".into()),
                message: message(body.clone(), id, priority).into(),
                exchange: "".into(),
                routing_key: "celery".into(),
                queue: Some("q".into()),
                redelivered: true,
                soft_limit: soft.map(Duration::from_nanos),
                hard_limit: None,
                short: false,
            };
            let outcome = Outcome {
                kind: KINDS[kind],
                results: vec![ResultRecord { task_id: "a".into(), record: body.into(), expires_ms: Some(5), ..ResultRecord::default() }],
                publications: vec![Publication { due_ms: Some(-4), declare: Some(Arc::default()), message: Message::clone(&execution.message), ..Publication::default() }],
                runtime: Some(Duration::from_micros(17)),
                summary: "ümlaut".into(),
                traceback: "Traceback".into(),
                parts: vec![part(Some(-1)), part(None)].split_off(kind % 3),
            };
            let member = |tag| Execution { tag, mode: Mode::Run, ..execution.clone() };
            let batch = Execution {
                mode: Mode::Batch(Arc::new([member(5), member(6)])),
                message: Arc::default(),
                ..execution.clone()
            };
            let packed = Packed::new(&batch).unwrap();
            let tags: Vec<_> = packed.members().unwrap().iter().map(Packed::tag).collect();
            prop_assert_eq!(tags, [5, 6]);
            let join = Execution { mode: Mode::Join(Arc::new(joined())), ..execution.clone() };
            let mut bytes = Vec::new();
            encode_execution(&execution, &mut bytes).unwrap();
            encode_outcome(tag, &outcome, &mut bytes).unwrap();
            encode_execution(&join, &mut bytes).unwrap();
            encode_execution(&batch, &mut bytes).unwrap();
            encode_reclaim(&[1, tag], &mut bytes);
            encode_soft_limit(tag, &mut bytes);
            encode_began(&[tag, 2], &mut bytes);
            encode_cancel(tag, &mut bytes);
            encode_slots(7, &mut bytes);
            encode_stop(&mut bytes);

            let mut decoder = Decoder::default();
            let mut frames = Vec::new();
            for piece in bytes.chunks(cut) {
                decoder.buffer();
                decoder.feed(piece);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    frames.push(frame);
                }
            }

            let expected = [
                Frame::Execution(Box::new(execution)),
                Frame::Outcome(tag, outcome),
                Frame::Execution(Box::new(join)),
                Frame::Execution(Box::new(batch)),
                Frame::Reclaim(vec![1, tag]),
                Frame::SoftLimit(tag),
                Frame::Began(vec![tag, 2]),
                Frame::Cancel(tag),
                Frame::Slots(7),
                Frame::Stop,
            ];
            prop_assert_eq!(frames, expected);
        }

        #[test]
        fn nonsense_is_an_error_and_never_a_panic(bytes: Vec<u8>) {
            let mut decoder = Decoder::new(1000);
            decoder.feed(&bytes);
            while let Ok(Some(_)) = decoder.next_frame() {}
        }
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_before_it_is_read() {
        let mut decoder = Decoder::new(1000);
        decoder.feed(&[0xff, 0xff, 0, 0, b'E']);

        assert_eq!(decoder.next_frame(), Err(FrameError::TooLarge { size: 65535, limit: 1000 }));
    }
}
