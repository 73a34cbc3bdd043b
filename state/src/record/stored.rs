//! Between a type that is stored and the one that the programs work with. The conversions are written by macros: whoever adds
//! a field or a variant to the live type finds that the stored one does not compile.

use dfs_proto::attr::Name;
use dfs_proto::ids::{
    ChunkId, ClusterId, ContentSeq, DirectoryId, FederationId, Incarnation, InodeId, Instance, MemberId,
    RequestId, ServerId, SessionId, SessionNonce, SetVersion, VolumeId,
};
use dfs_proto::units::{ByteLen, ChunkOffset, Offset};
use thiserror::Error;

/// A stored value that no version of dfs has written.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub(crate) struct Broken(pub(crate) String);

/// The stored form of a `Live`.
pub(crate) trait Stored<Live>: Sized {
    fn store(live: &Live) -> Self;
    fn live(self) -> Result<Live, Broken>;
}

macro_rules! itself {
    ($($name:ty),*) => {$(
        impl Stored<$name> for $name {
            fn store(live: &$name) -> $name {
                live.clone()
            }
            fn live(self) -> Result<$name, Broken> {
                Ok(self)
            }
        }
    )*};
}

itself!(bool, u8, u32, u64, u128, i64, String);

/// An id or a unit is stored as its number.
macro_rules! number {
    ($($inner:ident: $($name:ident),*;)*) => {$($(
        impl Stored<$name> for $inner {
            fn store(live: &$name) -> $inner {
                live.0
            }
            fn live(self) -> Result<$name, Broken> {
                Ok($name(self))
            }
        }
    )*)*};
}

number! {
    u32: VolumeId;
    u64: ChunkId, ContentSeq, Incarnation, InodeId, Instance, MemberId, RequestId, ServerId, SessionId, SetVersion,
         ByteLen, ChunkOffset, Offset;
    u128: ClusterId, DirectoryId, FederationId, SessionNonce;
}

impl<Live, S: Stored<Live>> Stored<Vec<Live>> for Vec<S> {
    fn store(live: &Vec<Live>) -> Vec<S> {
        live.iter().map(S::store).collect()
    }
    fn live(self) -> Result<Vec<Live>, Broken> {
        self.into_iter().map(S::live).collect()
    }
}

impl<Live, S: Stored<Live>> Stored<Option<Live>> for Option<S> {
    fn store(live: &Option<Live>) -> Option<S> {
        live.as_ref().map(S::store)
    }
    fn live(self) -> Result<Option<Live>, Broken> {
        self.map(S::live).transpose()
    }
}

impl<Ok, Err, SOk: Stored<Ok>, SErr: Stored<Err>> Stored<Result<Ok, Err>> for Result<SOk, SErr> {
    fn store(live: &Result<Ok, Err>) -> Result<SOk, SErr> {
        live.as_ref().map(SOk::store).map_err(SErr::store)
    }
    fn live(self) -> Result<Result<Ok, Err>, Broken> {
        match self {
            Ok(live) => live.live().map(Ok),
            Err(live) => live.live().map(Err),
        }
    }
}

impl<A, B, SA: Stored<A>, SB: Stored<B>> Stored<(A, B)> for (SA, SB) {
    fn store((a, b): &(A, B)) -> (SA, SB) {
        (SA::store(a), SB::store(b))
    }
    fn live(self) -> Result<(A, B), Broken> {
        Ok((self.0.live()?, self.1.live()?))
    }
}

impl Stored<Name> for Vec<u8> {
    fn store(live: &Name) -> Vec<u8> {
        live.as_bytes().to_vec()
    }
    fn live(self) -> Result<Name, Broken> {
        let shown = self.escape_ascii().to_string();
        Name::new(self).map_err(|why| Broken(format!("\"{shown}\" is no name: {why:?}")))
    }
}

/// `struct Stored = Live { field: how it is stored, … }`, in the order of the bytes. Fields that it does not have stand behind a
/// semicolon: they are read as their default.
macro_rules! stored_struct {
    ($(#[$meta:meta])* $name:ident = $live:ty {
        $($field:ident: $type:ty),* $(,)? $(; $($absent:ident),+)?
    }) => {
        $(#[$meta])*
        #[derive(serde::Serialize, serde::Deserialize)]
        pub(crate) struct $name { $($field: $type),* }

        impl $crate::record::stored::Stored<$live> for $name {
            fn store(live: &$live) -> $name {
                type Live = $live;
                let Live { $($field,)* $($($absent: _),+)? } = live;
                $name { $($field: <$type as $crate::record::stored::Stored<_>>::store($field)),* }
            }
            fn live(self) -> Result<$live, $crate::record::stored::Broken> {
                type Live = $live;
                Ok(Live {
                    $($field: $crate::record::stored::Stored::live(self.$field)?,)*
                    $($($absent: Default::default()),+)?
                })
            }
        }
    };
}

/// `enum Stored = Live { Variant, Variant(its: T), Variant { field: T, … }, … }`, in the order of the numbers. Fields that this
/// layout does not have stand behind a semicolon: they are read as their default.
macro_rules! stored_enum {
    ($(#[$meta:meta])* $name:ident = $live:ty {
        $($variant:ident
            $(($bind:ident: $inner:ty))?
            $({ $($field:ident: $type:ty),* $(,)? $(; $($absent:ident),+)? })?
        ),* $(,)?
    }) => {
        $(#[$meta])*
        #[derive(serde::Serialize, serde::Deserialize)]
        pub(crate) enum $name {
            $($variant $(($inner))? $({ $($field: $type),* })?),*
        }

        impl $crate::record::stored::Stored<$live> for $name {
            fn store(live: &$live) -> $name {
                type Live = $live;
                match live {
                    $(Live::$variant $(($bind))? $({ $($field,)* $($($absent: _),+)? })? => $name::$variant
                        $((<$inner as $crate::record::stored::Stored<_>>::store($bind)))?
                        $({ $($field: <$type as $crate::record::stored::Stored<_>>::store($field)),* })?),*
                }
            }
            fn live(self) -> Result<$live, $crate::record::stored::Broken> {
                type Live = $live;
                Ok(match self {
                    $($name::$variant $(($bind))? $({ $($field),* })? => Live::$variant
                        $(($crate::record::stored::Stored::live($bind)?))?
                        $({
                            $($field: $crate::record::stored::Stored::live($field)?,)*
                            $($($absent: Default::default()),+)?
                        })?),*
                })
            }
        }
    };
}

pub(crate) use {stored_enum, stored_struct};
