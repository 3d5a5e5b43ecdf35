//! What is remembered about keys that have neither connections nor callers at present.

use std::collections::{BTreeMap, HashMap};
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
    keys: Mutex<Keys>,
    /// The number of keys; one load if there are none.
    len: AtomicUsize,
}

/// The keys, and the order in which they were put, so that no step looks at all of them.
#[derive(Default)]
struct Keys {
    of_key: HashMap<Key, (u64, Remembered)>,
    /// Each key by its number, with the time when it was put: the oldest is first.
    oldest: BTreeMap<u64, (Instant, Key)>,
    next: u64,
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

impl Keys {
    fn put(&mut self, key: &Key, remembered: Remembered, now: Instant) {
        self.take(key);
        while let Some(oldest) = self.oldest.first_entry()
            && (self.of_key.len() >= MOST || is_old(oldest.get().0, now))
        {
            let (_, key) = oldest.remove();
            self.of_key.remove(&key);
        }
        self.next += 1;
        self.oldest.insert(self.next, (now, key.clone()));
        self.of_key.insert(key.clone(), (self.next, remembered));
    }

    fn take(&mut self, key: &Key) -> Option<(Instant, Remembered)> {
        let (number, remembered) = self.of_key.remove(key)?;
        let (at, _) = self.oldest.remove(&number)?;
        Some((at, remembered))
    }
}

fn is_old(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) >= AGE
}

impl Memory {
    pub(super) fn new() -> Self {
        Self {
            keys: Mutex::new(Keys::default()),
            len: AtomicUsize::new(0),
        }
    }

    pub(super) fn put(&self, key: &Key, remembered: Remembered, now: Instant) {
        if remembered.is_nothing() {
            return;
        }
        let mut keys = self.lock();
        keys.put(key, remembered, now);
        self.len.store(keys.of_key.len(), Ordering::Release);
    }

    pub(super) fn take(&self, key: &Key, now: Instant) -> Remembered {
        if self.len.load(Ordering::Acquire) == 0 {
            return Remembered::default();
        }
        let mut keys = self.lock();
        let taken = keys.take(key);
        self.len.store(keys.of_key.len(), Ordering::Release);
        match taken {
            Some((at, it)) if !is_old(at, now) => it,
            _ => Remembered::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Keys> {
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
        assert_eq!(memory.lock().of_key.len(), MOST);
        assert_eq!(memory.lock().oldest.len(), MOST);
        assert!(!memory.take(&key(2999), start).is_nothing());
        assert!(memory.take(&key(1000), start).is_nothing());
    }

    /// Without a look at the others: none is visited but those that go.
    #[test]
    fn what_is_old_goes_first_and_a_key_that_comes_again_is_new() {
        let memory = Memory::new();
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        for port in 1..=3 {
            memory.put(&key(port), something(), at(port.into()));
        }
        memory.put(&key(1), something(), at(4));
        // The second and the third are as old as may be, and the first is not.
        memory.put(&key(5), something(), at(3) + AGE);
        let order: Vec<_> = memory.lock().oldest.values().cloned().collect();
        assert_eq!(order, [(at(4), key(1)), (at(3) + AGE, key(5))]);
        assert_eq!(memory.lock().of_key.len(), 2);
    }
}
