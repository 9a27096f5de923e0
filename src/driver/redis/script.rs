//! Lua scripts, which the server keeps under the hash of their text.

/// A script: sent as its hash, and as its text to a server that does not have it.
#[derive(Clone, Debug)]
pub(super) struct Script {
    text: String,
    hash: String,
}

impl Script {
    pub(super) fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        let hash = redis::Script::new(&text).get_hash().to_owned();
        Self { text, hash }
    }

    /// The call by hash. The arguments are copied once, into the command.
    pub(super) fn call<K: AsRef<[u8]>, A: AsRef<[u8]>>(&self, keys: &[K], args: &[A]) -> redis::Cmd {
        let sizes =
            keys.iter().map(|key| key.as_ref().len()).chain(args.iter().map(|arg| arg.as_ref().len()));
        let mut command = redis::Cmd::with_capacity(3 + keys.len() + args.len(), 80 + sizes.sum::<usize>());
        command.arg("EVALSHA").arg(&self.hash).arg(keys.len());
        for key in keys {
            command.arg(key.as_ref());
        }
        for arg in args {
            command.arg(arg.as_ref());
        }
        command
    }

    /// Teaches the server the script.
    pub(super) fn load(&self) -> redis::Cmd {
        let mut command = redis::cmd("SCRIPT");
        command.arg("LOAD").arg(&self.text);
        command
    }
}
