//! How connections are spread over the addresses of a name.

/// Which addresses of a name connections are made to, and which idle connection is used if a name has several
/// addresses.
///
/// With [`InTurn`](Self::InTurn) and [`FewestOpenFirst`](Self::FewestOpenFirst), an address that refuses a connect is
/// skipped for a while: for up to 1 s after the first failure, twice as long after each further one, up to 60 s, and at
/// random between half of that time and all of it. Then one connect tries the address again, and the others are used
/// meanwhile.
///
/// Over HTTP/2, one connection could carry all requests. With these two, while the connections of a key carry more requests
/// than there are connections, a connection is made to each address that has none: one after the other, in the background,
/// within all limits, until each address has one. So with k requests at a time, at least k addresses are used, if there are as
/// many. An address whose server ends such a connection at once (within 1 s, and before it had 100 requests) gets the next one
/// after 1 s, after twice as long each further time, up to 60 s. By default there is one connection until all its streams are in
/// use (RFC 9113 §9.1). Only pools made by [`KeepAliveLayer`](crate::KeepAliveLayer) do this. Other pools connect again when all
/// streams are in use.
///
/// ```
/// use tower_keep_alive::{KeepAlive, Spread};
///
/// let agent = KeepAlive::builder()
///     .spread(Spread::FewestOpenFirst)
///     .build();
/// # drop(agent);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "camelCase"))]
#[non_exhaustive]
pub enum Spread {
    /// The first address that answers, in the resolver's order. With most resolvers one address gets the whole load.
    #[default]
    AsResolved,
    /// Each address in turn. Idle connections are used in turn too: one to the address that has not been used for
    /// longest.
    InTurn,
    /// The address with the fewest connections for the key. Of the idle connections, one to the address with the fewest
    /// requests in flight is used; if several have equally few, to the one that has not been used for longest. Streams of
    /// HTTP/2 count each.
    FewestOpenFirst,
}
