//! Which request bodies a client takes.

/// A body that becomes a `B`: any type that is `Into<B>`. The trait cannot be named outside of this crate; it says more than `Into`
/// where a body does not fit.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not convert into `{B}`, the type of this client's request bodies",
    label = "the body of this request has another type",
    note = "text and bytes become a `RequestBody` if they are owned or `'static`, any `http_body::Body` by `RequestBody::new`: \
            `request.map(RequestBody::new)`",
    note = "a client for another type of bodies names it: `KeepAlive<_, {Self}>`"
)]
#[expect(
    unnameable_types,
    reason = "sealed: it is a bound, and nobody else writes it"
)]
pub trait IntoBody<B> {
    /// Converts it.
    fn into_body(self) -> B;
}

#[diagnostic::do_not_recommend]
impl<T: Into<B>, B> IntoBody<B> for T {
    #[inline]
    fn into_body(self) -> B {
        self.into()
    }
}
