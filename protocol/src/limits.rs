//! Every bound that Flair puts on what others can make it hold, read or compute, in one place.

/// Network version: the first field of every operation header. Version 1 headers are frozen.
pub const VERSION: u64 = 1;
/// The highest policy level whose kinds this build evaluates.
pub const LEVEL: u64 = 1;

/// Bytes of an operation header.
pub const HEADER: usize = 4 * 1024;
/// Bytes of an operation body.
pub const BODY: usize = 60 * 1024;
/// Bytes of an encoded operation: header, signature, body and their framing.
pub const OPERATION: usize = HEADER + BODY + 256;
/// Operations that one operation may name as seen.
pub const DEPS: usize = 16;
/// Operations from one peer that wait for others, in number.
pub const PENDING_OPERATIONS: usize = 1_000;
/// Operations from one peer that wait for others, in bytes.
pub const PENDING_BYTES: usize = 4 * 1024 * 1024;

/// Bytes of a manifest.
pub const MANIFEST: usize = 32 * 1024 * 1024;
/// Bytes of an aggregate's state object.
pub const STATE: usize = 16 * 1024 * 1024;
/// Files of one model (shards).
pub const FILES: usize = 1_024;
/// Side files of one model (config, tokenizer), in number.
pub const SIDE_FILES: usize = 64;
/// Bytes of one side file.
pub const SIDE_FILE: u64 = 64 * 1024 * 1024;

/// Publications of one commit by one author that count.
pub const PUBLICATIONS: usize = 4;
/// Publications, or evaluations, of one commit over all branches of an author's forked chain: more only an equivocator
/// can have.
pub const FORKED: usize = 64;
/// Own updates on one another, from the aggregate they start at.
pub const CHAIN: usize = 64;
/// Inputs of one aggregate.
pub const INPUTS: usize = 256;
/// Commits of two histories that may have come since the nearest common ancestor of what is merged.
pub const APART: usize = 10_000;
/// Characters of a repository, branch or person name.
pub const NAME: usize = 100;
/// Characters of a commit message.
pub const MESSAGE: usize = 16 * 1024;
/// Metrics of one commit.
pub const METRICS: usize = 64;
/// Entries of an object's extension map.
pub const EXTENSIONS: usize = 16;
/// Bytes of an object's extension map.
pub const EXTENSION_BYTES: usize = 4 * 1024;

/// Delegates of a policy.
pub const DELEGATES: usize = 16;
/// Persons whom one policy revision cuts off.
pub const CUTS: usize = 64;
/// Grants and revocations of one person by one signer that count.
pub const CHANGES: usize = 64;
/// Reviews of one commit by one author that count.
pub const REVIEWS: usize = 16;
/// Evaluations of one commit by one author that count.
pub const EVALUATIONS: usize = 16;
/// Metrics of one evaluation.
pub const EVALUATED: usize = 16;
/// Requirements of one protected branch.
pub const REQUIREMENTS: usize = 16;
/// Members of a repository.
pub const MEMBERS: usize = 10_000;
/// Branches of a repository.
pub const BRANCHES: usize = 1_000;
/// Uses of one invite.
pub const INVITE_USES: u64 = 10_000;

/// Bytes of an announcement.
pub const ANNOUNCEMENT: usize = 1_024;
/// Bytes of a request.
pub const REQUEST: usize = 64 * 1024;
/// Bytes of a response.
pub const RESPONSE: usize = 1024 * 1024;
/// Operation ids in one request: what the asker has, or wants.
pub const REQUEST_IDS: usize = 256;
/// Join requests that wait in one repository.
pub const JOIN_REQUESTS: usize = 64;
/// Bytes of a join request.
pub const JOIN_REQUEST: usize = 2 * 1024;
/// Characters of a ticket.
pub const TICKET: usize = 4 * 1024;
/// Addresses in a ticket or in an answer about peers.
pub const ADDRESSES: usize = 16;
/// Characters of one such address.
pub const ADDRESS: usize = 256;
/// Operations in one response.
pub const PAGE: usize = 1_024;
/// Join requests in one response.
pub const HELLO_JOINS: usize = 16;
/// Peers that one repository's engine exchanges with.
pub const PEERS: usize = 256;
/// Operations announced by one peer that are on their way.
pub const HINTS: usize = 256;
/// Bytes of operations that wait for the disk before no more are asked for.
pub const STAGED_BYTES: usize = 4 * 1024 * 1024;
