//! C. Admission: pick, create or queue.
