//! How many results a client wants.

use pinfold_http::{ApiError, ApiResult, Query};

/// Counts down. There is no limit unless the client asks for one: the contract has none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit(Option<u64>);

impl Limit {
    /// The query's `limit`, from 1.
    pub(crate) fn of(query: &Query) -> ApiResult<Self> {
        match query.parsed("limit")? {
            Some(0) => Err(ApiError::bad_request("the query parameter limit is at least 1")),
            limit => Ok(Self(limit)),
        }
    }

    /// Whether one more is wanted.
    pub(crate) fn take(&mut self) -> bool {
        match &mut self.0 {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }
}
