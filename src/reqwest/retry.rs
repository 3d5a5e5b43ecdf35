use std::future::{Ready, ready};
use std::mem;

use reqwest::{Body, Request};
use tokio::time::Sleep;
use tower::retry::Policy;

use crate::retry::{ReusedReset, Unsent};
use crate::target::extensions::OnFreshConnection;

/// For requests of reqwest, above [`ReqwestLayer`](crate::reqwest::ReqwestLayer); the same policy as for `http`
/// requests. A request whose body is a stream cannot be sent twice.
impl<R, E> Policy<Request, R, E> for ReusedReset
where
    E: 'static,
{
    type Future = Ready<()>;

    fn retry(&mut self, request: &mut Request, result: &mut Result<R, E>) -> Option<Ready<()>> {
        if !self.follows(result) {
            return None;
        }
        ask_for_fresh(request)?;
        Some(ready(()))
    }

    fn clone_request(&mut self, request: &Request) -> Option<Request> {
        let copy = http::Request::<Body>::try_from(request.try_clone()?).ok()?;
        self.wants(&copy).then(|| copy.try_into().ok()).flatten()
    }
}

/// For requests of reqwest, above [`ReqwestLayer`](crate::reqwest::ReqwestLayer); the same policy as for `http`
/// requests.
impl<R, E> Policy<Request, R, E> for Unsent
where
    E: 'static,
{
    type Future = Sleep;

    fn retry(&mut self, request: &mut Request, result: &mut Result<R, E>) -> Option<Sleep> {
        let (pause, needs_fresh) = self.follows(result)?;
        if needs_fresh {
            ask_for_fresh(request)?;
        }
        Some(pause)
    }

    fn clone_request(&mut self, request: &Request) -> Option<Request> {
        self.wants().then(|| request.try_clone()).flatten()
    }
}

/// Only a conversion to `http::Request` gives access to the extensions. It succeeds for every request that was sent
/// once.
fn ask_for_fresh(request: &mut Request) -> Option<()> {
    let empty = Request::new(request.method().clone(), request.url().clone());
    let mut again = http::Request::<Body>::try_from(mem::replace(request, empty)).ok()?;
    again.extensions_mut().insert(OnFreshConnection);
    *request = again.try_into().ok()?;
    Some(())
}
