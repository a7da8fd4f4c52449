//! Between a terminal and those who watch and type: the log of what it wrote, the queue of what is typed, and the task that moves both.

pub(crate) mod input;
pub(crate) mod output;
pub(crate) mod pump;
