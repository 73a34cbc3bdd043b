//! What files take.

use super::Table;
use super::stored::stored_struct;
use crate::value::space;

/// The space of inodes. Version 1: since inodes have version 2.
pub(crate) struct Spaces;

impl Table for Spaces {
    const NAME: &'static str = "the space of inodes";
    const VERSION: u8 = 1;
    type Value = space::SpaceRecord;
    type Record = Space;
}

stored_struct! {
    Space = space::SpaceRecord { allocated: u64, cuts: u32 }
}
