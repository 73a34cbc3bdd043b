//! V6: the kernel keeps its pages of a file over an open if the open finds the same content as the one before.
//!
//! Pages enter the kernel's cache only through an open file, and versions of the content only grow. So if two opens in a row
//! see the same version, every page that was read between them shows that version.

/// What is known of the kernel's pages of one inode.
#[derive(Debug, Default)]
pub struct KeptPages {
    /// The version of the content at the last open. `None` before the first open, and after the pages differed.
    content_version: Option<u64>,
}

impl KeptPages {
    /// An open has found `content_version`. True if the kernel may keep its pages.
    pub fn opened_at(&mut self, content_version: u64) -> bool {
        self.content_version.replace(content_version) == Some(content_version)
    }

    /// The pages show bytes that are not the file's: the next open does not keep them.
    pub fn differ(&mut self) {
        self.content_version = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_kept_only_over_opens_that_find_the_same_content() {
        let mut pages = KeptPages::default();
        assert!(!pages.opened_at(1), "the first open");
        assert!(pages.opened_at(1));
        assert!(!pages.opened_at(2), "the content has changed");
        pages.differ();
        assert!(!pages.opened_at(2));
        assert!(pages.opened_at(2));
    }
}
