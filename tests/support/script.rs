//! The scripts that most tests need; a test with its own idea passes a closure.

use super::conn::Conn;

/// Answers each request with 200 and the body `ok`, until the client closes.
pub async fn ok(mut conn: Conn) {
    while conn.request().await.is_some() {
        conn.respond("ok").await;
    }
}

/// Answers each request with its own `x-request-id`, or else its target, until the client closes.
pub async fn echo(mut conn: Conn) {
    while let Some(head) = conn.request().await {
        let own = head.header("x-request-id").unwrap_or(&head.target);
        conn.respond(own).await;
    }
}

/// Never reads nor answers; ends when the client is gone.
pub async fn stall(conn: Conn) {
    conn.stall().await;
}
