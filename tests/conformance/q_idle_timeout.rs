//! Q. Idle timeout.
