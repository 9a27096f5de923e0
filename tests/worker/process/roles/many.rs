//! A child with several slots: a thread for each request that has begun.

use std::collections::{HashSet, VecDeque};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use celeriac::worker::pool::process::frame::{self, Decoder, Frame};
use celeriac::worker::pool::{Execution, Outcome, RequestTag};

#[derive(Default)]
struct State {
    slots: usize,
    waiting: VecDeque<Execution>,
    running: HashSet<RequestTag>,
    cancelled: HashSet<RequestTag>,
    stopped: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    writer: Mutex<UnixStream>,
}

impl Shared {
    fn write(&self, bytes: &[u8]) {
        // A supervisor that is gone ends this process by its socket.
        let _ = self.writer.lock().unwrap().write_all(bytes);
    }

    /// Begins what there is a slot for.
    fn begin(self: &Arc<Self>) {
        let mut state = self.state.lock().unwrap();
        while state.running.len() < state.slots
            && let Some(execution) = state.waiting.pop_front()
        {
            state.running.insert(execution.tag);
            let mut began = Vec::new();
            frame::encode_began(&[execution.tag], &mut began);
            self.write(&began);
            let shared = self.clone();
            std::thread::spawn(move || shared.run(&execution));
        }
    }

    fn run(self: &Arc<Self>, execution: &Execution) {
        let order = std::str::from_utf8(&execution.message.body).unwrap();
        match order.split(' ').next().unwrap() {
            // Does not end when it is told to.
            "hang" => loop {
                std::thread::sleep(Duration::from_secs(1));
            },
            "die" => std::process::abort(),
            "sleep" => std::thread::sleep(Duration::from_millis(order[6..].parse().unwrap())),
            "wait" => {
                let state = self.state.lock().unwrap();
                let told = self.changed.wait_while(state, |state| !state.cancelled.contains(&execution.tag));
                drop(told.unwrap());
            }
            _ => {}
        }
        let outcome = Outcome { summary: std::process::id().to_string(), ..Outcome::default() };
        let mut answer = Vec::new();
        frame::encode_outcome(execution.tag, &outcome, &mut answer).unwrap();
        self.write(&answer);
        self.state.lock().unwrap().running.remove(&execution.tag);
        self.begin();
        self.changed.notify_all();
    }

    fn take(&self, frame: Frame) {
        let mut state = self.state.lock().unwrap();
        match frame {
            Frame::Execution(execution) => state.waiting.push_back(*execution),
            Frame::Slots(slots) => state.slots = slots as usize,
            Frame::Cancel(tag) => _ = state.cancelled.insert(tag),
            Frame::Stop => state.stopped = true,
            Frame::Reclaim(tags) => {
                let returned: Vec<_> = state.waiting.iter().map(|execution| execution.tag).collect();
                let returned: Vec<_> = returned.into_iter().filter(|tag| tags.contains(tag)).collect();
                state.waiting.retain(|execution| !returned.contains(&execution.tag));
                let mut answer = Vec::new();
                frame::encode_returned(&returned, &mut answer);
                self.write(&answer);
            }
            _ => {}
        }
    }
}

/// Until it is told to end, and has nothing left; or until the supervisor is gone.
pub(super) fn serve(socket: &UnixStream) {
    let writer = Mutex::new(socket.try_clone().unwrap());
    let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), writer });
    let mut ready = Vec::new();
    frame::encode_ready(&mut ready);
    shared.write(&ready);
    let (reader, mut socket) = (shared.clone(), socket.try_clone().unwrap());
    std::thread::spawn(move || {
        let mut decoder = Decoder::default();
        let mut chunk = vec![0; 1 << 16];
        loop {
            let read = socket.read(&mut chunk).unwrap_or(0);
            if read == 0 {
                super::leave();
            }
            decoder.feed(&chunk[..read]);
            while let Some(frame) = decoder.next_frame().unwrap() {
                reader.take(frame);
            }
            reader.begin();
            reader.changed.notify_all();
        }
    });
    let state = shared.state.lock().unwrap();
    let busy = |state: &mut State| !(state.stopped && state.running.is_empty() && state.waiting.is_empty());
    drop(shared.changed.wait_while(state, busy).unwrap());
}
