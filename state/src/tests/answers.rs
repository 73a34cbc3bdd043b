//! What a change answers beside its result: the directories, as the change left them.

use dfs_proto::meta::{Rename, RenameMode};

use super::*;
use crate::command::Answered;

impl Harness {
    fn answer(&mut self, request: ChangeRequest) -> MetaResult<Answered> {
        let reply = self.execute(request, Vec::new(), Vec::new());
        let Reply::Changed(answered) = reply else { panic!("a change answered {reply:?}") };
        answered
    }
}

#[test]
fn a_change_of_names_shows_its_directories_as_it_left_them() {
    let mut harness = Harness::new();
    let (a, b) = (harness.directory(InodeId::ROOT, "a"), harness.directory(InodeId::ROOT, "b"));
    harness.file(a, "f");
    harness.at(20);
    let (name, new_name) = (name("f"), name("g"));
    let rename = Rename {
        parent: b,
        name: new_name.clone(),
        new_parent: a,
        new_name: name.clone(),
        mode: RenameMode::Replace,
    };
    let refused = harness.next_request(&Caller::ROOT, Change::Rename(rename));
    assert_eq!(harness.answer(refused), Err(MetaError::NotFound));
    let rename = Rename { parent: a, name, new_parent: b, new_name, mode: RenameMode::Replace };
    let request = harness.numbered(&Caller::ROOT, (50, 50), Change::Rename(rename));
    let answered = harness.answer(request.clone()).expect("it is renamed");
    let left = [harness.attr(a), harness.attr(b)];
    assert_eq!(answered.directories, left);
    assert_eq!(left.each_ref().map(|attr| attr.size), [ByteLen(0), ByteLen(1)]);

    harness.at(30);
    let more = create(b, "more", 0o644, NewInode::File);
    harness.request(&Caller::ROOT, 51, 50, more).expect("it is made");
    let again = harness.answer(request).expect("it was renamed");
    assert_eq!(again.changed, answered.changed);
    assert_eq!(again.directories, [harness.attr(a), harness.attr(b)], "as they are now");
}

#[test]
fn a_change_of_no_name_shows_no_directory() {
    let mut harness = Harness::new();
    let directory = harness.directory(InodeId::ROOT, "a");
    let set = SetAttr { inode: directory, mode: Some(0o700), ..SetAttr::default() };
    let request = harness.next_request(&Caller::ROOT, Change::SetAttr(set));
    assert_eq!(harness.answer(request).expect("it is set").directories, []);
}
