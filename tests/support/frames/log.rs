//! What a server has seen, over all of its connections.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::hpack::Field;

/// Shared by the connections of one server.
#[derive(Clone, Debug, Default)]
pub struct Log(Arc<Mutex<Seen>>);

/// What [`Log::seen`] looks at.
#[derive(Debug, Default)]
pub struct Seen {
    /// Connections whose preface came.
    pub connections: usize,
    /// Every stream whose head came, in the order they came.
    pub requests: Vec<Request>,
    /// Streams that are open now.
    pub open: usize,
    /// The most that were open at one moment, over all connections.
    pub most_open: usize,
    /// The most that were open at one moment on one connection.
    pub most_open_on_one: usize,
    /// Streams that came when as many were open as the connection's limit allows.
    pub beyond_limit: usize,
    /// The codes of RST_STREAM frames, by connection and stream.
    pub resets: Vec<(usize, u32, u32)>,
    /// The codes of GOAWAY frames, by connection.
    pub go_aways: Vec<(usize, u32)>,
    /// How many frames came of each type.
    pub frames: HashMap<u8, usize>,
}

/// A request, as far as it has come.
#[derive(Clone, Debug)]
pub struct Request {
    /// The number of its connection, from 0.
    pub connection: usize,
    pub stream: u32,
    /// In the order sent, pseudo-fields first.
    pub fields: Vec<Field>,
    pub body: Vec<u8>,
    /// What came after the body.
    pub trailers: Vec<Field>,
    /// Whether its end came.
    pub is_complete: bool,
    /// Whether the server has said that it has not looked at it.
    pub is_refused: bool,
}

impl Request {
    pub fn field(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|it| it.0 == name);
        found.map(|it| &*it.1)
    }

    pub fn method(&self) -> &str {
        self.field(":method").unwrap_or_default()
    }

    pub fn path(&self) -> &str {
        self.field(":path").unwrap_or_default()
    }

    /// A server that is told to does what a request says once the request is there, answered or not.
    pub fn is_executed(&self) -> bool {
        self.is_complete && !self.is_refused
    }
}

impl Log {
    pub(super) fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at what was seen; the server stands still meanwhile.
    pub fn seen<R>(&self, look: impl FnOnce(&Seen) -> R) -> R {
        look(&self.lock())
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.seen(|seen| seen.requests.clone())
    }

    /// How often each path was executed, of requests with this method.
    pub fn executed(&self, method: &str) -> HashMap<String, usize> {
        let mut times = HashMap::new();
        let seen = self.lock();
        let these = seen.requests.iter().filter(|it| it.method() == method);
        for request in these.filter(|it| it.is_executed()) {
            *times.entry(request.path().to_owned()).or_default() += 1;
        }
        times
    }

    /// How many paths were executed more than once, of requests with this method.
    pub fn executed_twice(&self, method: &str) -> usize {
        let times = self.executed(method);
        times.values().filter(|&&it| it > 1).count()
    }
}
