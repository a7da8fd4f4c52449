//! `multipart/form-data` (RFC 7578): reading uploads as they arrive, writing downloads.
//!
//! Both sides stream. The reader holds the chunk at hand and at most a few kilobytes of headers; content is handed on without being copied.

mod disposition;
mod reader;

#[cfg(feature = "fuzzing")]
pub(crate) use disposition::parameter;
pub(crate) use disposition::{attachment, form_data};
pub(crate) use reader::{Multipart, MultipartError, boundary_of};
