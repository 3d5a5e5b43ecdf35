//! What the connections of one key are doing.

use std::time::Duration;

use http::Version;

use super::{KeyState, Open, Stage};
use crate::agent::{ConnectionState, ConnectionStatus, ProtocolStatus};
use crate::clock::Moment;
use crate::connection::poolable::Poolable;

impl<C: Poolable> KeyState<C> {
    pub(in crate::pool) fn open_len(&self) -> usize {
        self.open.len()
    }

    /// The number of exchanges whose response has begun.
    pub(in crate::pool) fn answering(&self) -> usize {
        let in_use = self.open.iter().filter(|(_, open)| open.idle.is_none());
        in_use
            .map(|(_, open)| match &open.stage {
                Stage::Shared(sharing) => sharing.answering(),
                _ => usize::from(open.shared().is_some_and(|it| it.activity().is_answering())),
            })
            .sum()
    }

    pub(in crate::pool) fn connections(
        &self,
        now: Moment,
    ) -> impl Iterator<Item = ConnectionStatus> {
        self.open.iter().map(move |(_, open)| {
            let shared = open.shared();
            let state = open.state();
            ConnectionStatus {
                id: shared.map(|shared| shared.id()),
                state,
                age: shared
                    .and_then(|shared| shared.born())
                    .map_or(Duration::ZERO, |born| now.since(born)),
                uses: shared.map_or(0, |shared| shared.activity().uses()),
                streams: open.streams(state),
                capacity: open.capacity(),
                remote_addr: shared.and_then(|shared| shared.remote_addr()),
            }
        })
    }

    /// What its connections speak, and how many exchanges they carry.
    pub(in crate::pool) fn protocols(&self) -> ProtocolStatus {
        let mut all = ProtocolStatus::default();
        for (_, open) in &self.open {
            let Some(shared) = open.shared() else {
                continue;
            };
            match shared.version() {
                Version::HTTP_2 => all.http2 += 1,
                _ => all.http1 += 1,
            }
            let state = open.state();
            all.streams += open.streams(state);
            match state {
                ConnectionState::Draining => all.draining += 1,
                // Until its capacity is known it carries one.
                _ => {
                    let capacity = open.capacity().unwrap_or(1);
                    all.capacity = all.capacity.saturating_add(capacity);
                }
            }
        }
        all
    }
}

impl<C: Poolable> Open<C> {
    fn state(&self) -> ConnectionState {
        match &self.stage {
            Stage::Connecting(_) => ConnectionState::Connecting,
            Stage::Shared(sharing) if sharing.drains.is_some() => ConnectionState::Draining,
            _ if self.idle.is_some() => ConnectionState::Idle,
            _ => ConnectionState::Active,
        }
    }

    fn streams(&self, state: ConnectionState) -> usize {
        match &self.stage {
            Stage::Shared(sharing) => sharing.uses,
            _ => usize::from(state == ConnectionState::Active),
        }
    }

    fn capacity(&self) -> Option<usize> {
        match &self.stage {
            Stage::Connecting(_) | Stage::Made(_) => None,
            Stage::Shared(sharing) => sharing.whole.connection_ref().capacity(),
            Stage::Connected(_) => Some(1),
        }
    }
}
