//! What is remembered about keys that have neither connections nor callers at present.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::pool::addresses::AddressBook;
use crate::pool::learned::LearnedIdle;
use crate::pool::spares::Spares;
use crate::sync::{Mutex, MutexGuard};
use crate::target::key::Key;

/// How many keys are remembered, and for how long.
const MOST: usize = 1000;
const AGE: Duration = Duration::from_secs(600);

/// Its lock is the innermost: it may be taken under that of a key or of the table.
pub(super) struct Memory {
    keys: Mutex<HashMap<Key, (Instant, Remembered)>>,
    /// The number of keys; one load if there are none.
    len: AtomicUsize,
}

/// What is remembered about one key.
#[derive(Default)]
pub(super) struct Remembered {
    pub(super) learned: Option<Box<LearnedIdle>>,
    pub(super) addresses: Option<Arc<AddressBook>>,
    pub(super) spares: Option<Arc<Spares>>,
    /// How many uses a connection carries.
    pub(super) uses: Option<usize>,
}

impl Remembered {
    fn is_nothing(&self) -> bool {
        self.learned.is_none()
            && self.addresses.is_none()
            && self.spares.is_none()
            && self.uses.is_none()
    }
}

impl Memory {
    pub(super) fn new() -> Self {
        Self {
            keys: Mutex::new(HashMap::new()),
            len: AtomicUsize::new(0),
        }
    }

    pub(super) fn put(&self, key: &Key, remembered: Remembered, now: Instant) {
        if remembered.is_nothing() {
            return;
        }
        let mut keys = self.lock();
        if keys.len() >= MOST {
            keys.retain(|_, (at, _)| now.saturating_duration_since(*at) < AGE);
        }
        if keys.len() >= MOST {
            let oldest = keys.iter().min_by_key(|(_, (at, _))| *at);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                keys.remove(&oldest);
            }
        }
        keys.insert(key.clone(), (now, remembered));
        self.len.store(keys.len(), Ordering::Release);
    }

    pub(super) fn take(&self, key: &Key, now: Instant) -> Remembered {
        if self.len.load(Ordering::Acquire) == 0 {
            return Remembered::default();
        }
        let mut keys = self.lock();
        let taken = keys.remove(key);
        self.len.store(keys.len(), Ordering::Release);
        match taken {
            Some((at, it)) if now.saturating_duration_since(at) < AGE => it,
            _ => Remembered::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, (Instant, Remembered)>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(test, not(tower_keep_alive_loom)))]
mod tests {
    use super::*;
    use crate::target::key::KeyRef;

    fn key(port: u16) -> Key {
        KeyRef::new("http", "h", Some(port)).into()
    }

    fn something() -> Remembered {
        Remembered {
            learned: Some(Box::default()),
            ..Remembered::default()
        }
    }

    #[test]
    fn what_is_remembered_is_had_back_once_and_for_ten_minutes() {
        let memory = Memory::new();
        let now = Instant::now();
        memory.put(&key(1), something(), now);
        memory.put(&key(2), something(), now);
        memory.put(&key(3), Remembered::default(), now);
        assert!(memory.take(&key(3), now).is_nothing());
        assert!(!memory.take(&key(1), now).is_nothing());
        assert!(memory.take(&key(1), now).is_nothing());
        assert!(memory.take(&key(2), now + AGE).is_nothing());
        assert_eq!(memory.len.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_crowd_of_keys_is_not_kept() {
        let memory = Memory::new();
        let start = Instant::now();
        for port in 0..3000 {
            let now = start + Duration::from_millis(port.into());
            memory.put(&key(port), something(), now);
        }
        assert_eq!(memory.lock().len(), MOST);
        assert!(!memory.take(&key(2999), start).is_nothing());
        assert!(memory.take(&key(1000), start).is_nothing());
    }
}
