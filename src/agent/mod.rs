//! What an agent is as a whole: its books, its status, and the handle to them.

mod books;
mod handle;
mod status;

pub(crate) use books::{Books, Census, Control, Mode};
pub use handle::{AgentHandle, Drained};
pub use status::Status;
