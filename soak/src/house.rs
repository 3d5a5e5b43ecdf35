//! What servers and callers leave word of.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use tokio::sync::Barrier;

use crate::ledger::{Ledger, lock};
use crate::wire::Wires;

/// So many of a kind, and as many before them, are remembered.
const REMEMBERED: usize = 100_000;

/// What the servers know.
pub(crate) struct House {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) wires: Arc<Wires>,
    /// The last POSTs that were executed.
    posts: Mutex<Recent>,
    /// The last exchanges of which the answer was over before the upload was.
    cut_short: Mutex<Recent>,
    /// Where requests are held until all are there.
    pub(crate) barriers: Mutex<HashMap<u64, Arc<Barrier>>>,
}

impl House {
    /// Where nobody has been yet.
    pub(crate) fn new(ledger: Arc<Ledger>) -> Self {
        Self {
            ledger,
            wires: Arc::default(),
            posts: Mutex::default(),
            cut_short: Mutex::default(),
            barriers: Mutex::default(),
        }
    }

    /// Whether this POST has been executed before; from now on it has.
    pub(crate) fn has_executed(&self, id: u64) -> bool {
        !lock(&self.posts).insert(id)
    }

    /// The caller has all of the answer, and there is more to send.
    pub(crate) fn cut_short(&self, id: u64) {
        lock(&self.cut_short).insert(id);
    }

    pub(crate) fn was_cut_short(&self, id: u64) -> bool {
        lock(&self.cut_short).contains(id)
    }
}

/// Numbers, of which the oldest are forgotten.
#[derive(Default)]
struct Recent([HashSet<u64>; 2]);

impl Recent {
    /// Whether it is new.
    fn insert(&mut self, id: u64) -> bool {
        if self.0[0].len() >= REMEMBERED {
            self.0.swap(0, 1);
            self.0[0].clear();
        }
        !self.0[1].contains(&id) && self.0[0].insert(id)
    }

    fn contains(&self, id: u64) -> bool {
        self.0.iter().any(|ids| ids.contains(&id))
    }
}
