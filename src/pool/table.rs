//! The key pools by key.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, PoisonError};

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::connection::poolable::Poolable;
use crate::pool::key_pool::KeyPool;
use crate::sync::RwLock;
use crate::target::key::{Key, KeyRef};

/// Enough that two cores rarely contend for a lock that is held for one lookup. With the model checker, all keys share
/// one.
const SHARDS: usize = if cfg!(tower_keep_alive_loom) { 1 } else { 16 };

/// Looked up by the borrowed parts of a key, without allocating. The hash is seeded, because keys may come from
/// untrusted URLs.
pub(super) struct Table<C> {
    hasher: RandomState,
    shards: [RwLock<HashTable<Arc<KeyPool<C>>>>; SHARDS],
}

impl<C: Poolable> Table<C> {
    pub(super) fn new() -> Self {
        Self {
            hasher: RandomState::default(),
            shards: std::array::from_fn(|_| RwLock::new(HashTable::new())),
        }
    }

    // Not inlined: it needs all registers for itself, and its callers need theirs.
    #[inline(never)]
    pub(super) fn find(&self, key: &KeyRef<'_>) -> Option<Arc<KeyPool<C>>> {
        let hash = self.hash(key);
        let hosts = self
            .shard(hash)
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        hosts.find(hash, |key_pool| key_pool.key() == key).cloned()
    }

    #[inline]
    pub(super) fn find_or_insert(
        &self,
        key: &KeyRef<'_>,
        make: impl FnOnce(Key) -> Arc<KeyPool<C>>,
    ) -> Arc<KeyPool<C>> {
        match self.find(key) {
            Some(key_pool) => key_pool,
            None => self.insert(key, make),
        }
    }

    #[cold]
    fn insert(
        &self,
        key: &KeyRef<'_>,
        make: impl FnOnce(Key) -> Arc<KeyPool<C>>,
    ) -> Arc<KeyPool<C>> {
        let hash = self.hash(key);
        let mut hosts = self
            .shard(hash)
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        hosts
            .entry(
                hash,
                |key_pool| key_pool.key() == key,
                |key_pool| self.hash(&key_pool.key().as_ref()),
            )
            .or_insert_with(|| make(Key::from(*key)))
            .get()
            .clone()
    }

    /// Does nothing if it was removed already, or another one is in its place.
    pub(super) fn remove(&self, key_pool: &Arc<KeyPool<C>>) {
        let hash = self.hash(&key_pool.key().as_ref());
        let mut hosts = self
            .shard(hash)
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if let Ok(found) = hosts.find_entry(hash, |it| Arc::ptr_eq(it, key_pool)) {
            let _ = found.remove();
            // Frees memory after many keys have gone.
            if hosts.len() < hosts.capacity() / 8 {
                hosts.shrink_to_fit(|key_pool| self.hash(&key_pool.key().as_ref()));
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| {
            let hosts = shard.read().unwrap_or_else(PoisonError::into_inner);
            hosts.is_empty()
        })
    }

    /// One shard at a time; `act` runs outside of its lock.
    pub(super) fn each(&self, mut act: impl FnMut(&Arc<KeyPool<C>>)) {
        for shard in &self.shards {
            let hosts: Vec<_> = shard
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .iter()
                .cloned()
                .collect();
            hosts.iter().for_each(&mut act);
        }
    }

    /// All locks except the one of this key's shard.
    #[cfg(test)]
    pub(super) fn lock_others(&self, key: KeyRef<'_>) -> Vec<impl Sized + '_> {
        let own = self.shard(self.hash(&key));
        let others = self.shards.iter().filter(|it| !std::ptr::eq(*it, own));
        others.map(|it| it.write().unwrap()).collect()
    }

    #[inline(always)]
    #[expect(clippy::manual_hash_one, reason = "that is a call")]
    fn hash(&self, key: &KeyRef<'_>) -> u64 {
        let mut state = self.hasher.build_hasher();
        key.hash(&mut state);
        state.finish()
    }

    #[inline]
    fn shard(&self, hash: u64) -> &RwLock<HashTable<Arc<KeyPool<C>>>> {
        // The low bits are used for the place within the shard's table.
        &self.shards[(hash >> 32) as usize % self.shards.len()]
    }
}
