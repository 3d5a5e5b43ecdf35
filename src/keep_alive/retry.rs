use std::future::Ready;

use http::Request;
use tokio::time::Sleep;
use tower::retry::Policy;

use crate::keep_alive::RequestBody;
use crate::retry::{ReusedReset, Unsent, on_fresh_connection, without_body};
use crate::target::extensions::OnFreshConnection;

/// The same policy as for bodies that are `Clone`. A request whose body is a stream cannot be sent twice.
impl<R, E> Policy<Request<RequestBody>, R, E> for ReusedReset
where
    E: 'static,
{
    type Future = Ready<()>;

    fn retry(
        &mut self,
        request: &mut Request<RequestBody>,
        result: &mut Result<R, E>,
    ) -> Option<Ready<()>> {
        self.follows(result).then(|| on_fresh_connection(request))
    }

    fn clone_request(&mut self, request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
        let body = request.body().try_clone()?;
        self.wants(request)
            .then(|| without_body(request).map(|()| body))
    }
}

/// The same policy as for bodies that are `Clone`. A request whose body is a stream cannot be sent twice.
impl<R, E> Policy<Request<RequestBody>, R, E> for Unsent
where
    E: 'static,
{
    type Future = Sleep;

    fn retry(
        &mut self,
        request: &mut Request<RequestBody>,
        result: &mut Result<R, E>,
    ) -> Option<Sleep> {
        let (pause, needs_fresh) = self.follows(result)?;
        if needs_fresh {
            request.extensions_mut().insert(OnFreshConnection);
        }
        Some(pause)
    }

    fn clone_request(&mut self, request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
        let body = request.body().try_clone()?;
        self.wants().then(|| without_body(request).map(|()| body))
    }
}
