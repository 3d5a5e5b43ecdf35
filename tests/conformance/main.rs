//! What Node's Agent and agentkeepalive do, row by row: one module a section, one test a row, named after its id.
//!
//! A row that says FIX is a defect upstream: its test proves the corrected behaviour.

#[path = "../support/mod.rs"]
mod support;

mod a_options;
mod b_key;
mod b_route;
mod c_admission;
mod d_release;
mod e_refill;
mod f_idle;
mod g_timeouts;
mod h_persistence;
mod i_abort;
mod j_leaving;
mod k_retry;
mod l_tls;
mod m_host;
mod n_lifecycle;
mod o_defaults;
mod p_active_timeout;
mod q_idle_timeout;
mod r_ttl;
mod s_defects;
mod t_counters;
mod u_agentkeepalive;
