//! Names of full pages: a chain of HMAC-SHA-256 over their tokens, so that equal names mean equal keys and
//! values.
//!
//! A page's name covers its own tokens and, through its parent's name, everything before them. The
//! chain begins with a root that holds the model and the tenant, so a name can only be found by who has
//! authenticated as that tenant. Each link is keyed by its root, and roots by a secret of the page store's
//! folder (`store/secret.rs`): names stand on the disk, and who reads them there cannot try prompts against
//! them. Roots never leave the process; of what a client sends only a salt goes into a root, below the tenant's,
//! where it can but divide. Pages of a prefix the operator made public have a root of their own, and a
//! tenant's pages behind one leave it by way of the tenant's
//! root. Source: vLLM's prefix caching, with the salt it lacked in CVE-2025-46570.

use std::fmt;

use kernels::PAGE_TOKENS;

use super::hmac::Hmac;

/// Name of a full page, or of a chain's root.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainHash(pub [u8; 32]);

/// What goes into a hash first, so that none can be taken for one of another kind.
#[derive(Clone, Copy)]
enum Kind {
    Tenant = 1,
    Public = 2,
    Page = 3,
    /// From a public prefix into a tenant's own pages.
    Leave = 4,
    /// Of a page and its root, for the eyes of others.
    Seal = 5,
    /// Of requests that a tenant gave a name.
    Group = 6,
    /// Of a part of a tenant's requests.
    Salted = 7,
    /// Of a model, by what its files are.
    Model = 8,
    /// Of a model, for the eyes of others.
    Folder = 9,
}

fn digest(key: &[u8], kind: Kind, parts: &[&[u8]]) -> ChainHash {
    let mut hasher = Hmac::new(key);
    hasher.update([kind as u8]);
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    ChainHash(hasher.finalize())
}

/// The secret that one model's roots are made with, by a store's own secret and all that its keys and values
/// depend on.
pub fn model_secret(store: &[u8; 32], depends_on: &[u8]) -> [u8; 32] {
    digest(store, Kind::Model, &[depends_on]).0
}

/// What a store calls the model of this secret.
pub fn model_folder(model: &[u8; 32]) -> [u8; 32] {
    digest(model, Kind::Folder, &[]).0
}

impl ChainHash {
    /// Where a tenant's chains begin; `model` is the secret of a model, and tells apart those whose keys and
    /// values differ.
    pub fn tenant_root(model: &[u8], tenant: &str) -> ChainHash {
        digest(model, Kind::Tenant, &[tenant.as_bytes()])
    }

    /// Where the chains of prefixes begin that these tenants share; that all do, if none is named.
    pub fn public_root(model: &[u8], tenants: &[&str]) -> ChainHash {
        let parts: Vec<&[u8]> = tenants.iter().map(|tenant| tenant.as_bytes()).collect();
        digest(model, Kind::Public, &parts)
    }

    /// What the file of a page says of its root, which it must not name; nor can it be told from them which
    /// pages have one root.
    pub fn seal(&self, page: &ChainHash) -> [u8; 32] {
        digest(&self.0, Kind::Seal, &[&page.0]).0
    }

    /// Where the chains of those requests of a tenant begin that have this salt: it parts them from the others.
    pub fn salted(&self, salt: &str) -> ChainHash {
        digest(&self.0, Kind::Salted, &[salt.as_bytes()])
    }

    /// A tenant's requests of this name.
    fn group(&self, key: &str) -> ChainHash {
        digest(&self.0, Kind::Group, &[key.as_bytes()])
    }

    /// The name of the page that holds `tokens` after this one, in a chain of this root.
    fn page(&self, root: &ChainHash, tokens: &[u32]) -> ChainHash {
        let mut bytes = [0; PAGE_TOKENS * 4];
        for (bytes, token) in bytes.chunks_exact_mut(4).zip(tokens) {
            bytes.copy_from_slice(&token.to_le_bytes());
        }
        digest(&root.0, Kind::Page, &[&self.0, &bytes])
    }
}

impl fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Whose pages a sequence may share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixScope {
    /// Root of the tenant.
    pub root: ChainHash,
    /// Root of public prefixes, and how many of the sequence's first tokens are one.
    pub public_root: ChainHash,
    pub public_tokens: usize,
    pub keep: Keep,
    /// Whether it takes pages of others and leaves any.
    pub shares: bool,
}

/// How its pages are kept once it has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    #[default]
    Usual,
    /// Never written to disk.
    InMemory,
    Retained(Group),
}

/// For whom pages are retained: requests of one tenant, by the name it gave them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group {
    /// Its root.
    pub tenant: ChainHash,
    key: ChainHash,
}

impl Group {
    pub fn new(tenant: ChainHash, key: &str) -> Group {
        Group { tenant, key: tenant.group(key) }
    }
}

/// The names of one sequence's full pages: those of its prompt made where it arrives, the others as they are
/// asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    scope: PrefixScope,
    hashes: Vec<ChainHash>,
}

impl From<PrefixScope> for Chain {
    fn from(scope: PrefixScope) -> Chain {
        Chain::new(scope)
    }
}

impl Chain {
    pub fn new(scope: PrefixScope) -> Chain {
        Chain { scope, hashes: Vec::new() }
    }

    /// That of a sequence that begins with `prompt`, whose pages are named at once, with room for so many names.
    pub fn of_prompt(scope: PrefixScope, prompt: &[u32], pages: usize) -> Chain {
        let mut chain = Chain { scope, hashes: Vec::with_capacity(pages) };
        if let Some(last) = (prompt.len() / PAGE_TOKENS).checked_sub(1).filter(|_| scope.shares) {
            chain.get(last, prompt);
        }
        chain
    }

    pub fn shares(&self) -> bool {
        self.scope.shares
    }

    pub fn keep(&self) -> Keep {
        self.scope.keep
    }

    /// The name of page `index` of a sequence of `tokens`; `None` when they do not fill it. `tokens`
    /// only ever grow.
    pub fn get(&mut self, index: usize, tokens: &[u32]) -> Option<ChainHash> {
        if (index + 1) * PAGE_TOKENS > tokens.len() {
            return None;
        }
        while self.hashes.len() <= index {
            let next = self.hashes.len();
            let page = &tokens[next * PAGE_TOKENS..(next + 1) * PAGE_TOKENS];
            self.hashes.push(self.parent(next).page(&self.root(next), page));
        }
        Some(self.hashes[index])
    }

    /// The root of page `index`.
    pub fn root(&self, index: usize) -> ChainHash {
        let PrefixScope { root, public_root, public_tokens, .. } = self.scope;
        if index < public_tokens / PAGE_TOKENS { public_root } else { root }
    }

    /// The name that of page `index` is made from.
    fn parent(&self, index: usize) -> ChainHash {
        let PrefixScope { root, public_root, public_tokens, .. } = self.scope;
        let public_pages = public_tokens / PAGE_TOKENS;
        match index.checked_sub(1).map(|last| self.hashes[last]) {
            None if public_pages > 0 => public_root,
            None => root,
            Some(last) if index == public_pages => digest(&root.0, Kind::Leave, &[&last.0]),
            Some(last) => last,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(tenant: &str, public_tokens: usize) -> PrefixScope {
        let public_root = ChainHash::public_root(b"model", &[]);
        let root = ChainHash::tenant_root(b"model", tenant);
        PrefixScope { root, public_root, public_tokens, keep: Keep::Usual, shares: true }
    }

    fn names(scope: PrefixScope, tokens: &[u32]) -> Vec<ChainHash> {
        let mut chain = Chain::new(scope);
        (0..).map_while(|index| chain.get(index, tokens)).collect()
    }

    /// How many of their first pages two sequences share, and that they share no other.
    fn shared(a: &[ChainHash], b: &[ChainHash]) -> usize {
        let shared = a.iter().zip(b).take_while(|(a, b)| a == b).count();
        assert!(a[shared..].iter().all(|name| !b.contains(name)));
        shared
    }

    #[test]
    fn pages_are_shared_by_whom_and_as_far_as_they_may() {
        let tokens: Vec<u32> = (0..160).collect();
        let other_tail: Vec<u32> = (0..100).chain(7..67).collect();
        let other_head: Vec<u32> = std::iter::once(9).chain(1..160).collect();
        // (tenant, public tokens, tokens) of two sequences, pages they share
        let rows = [
            (("a", 0, &tokens), ("a", 0, &tokens), 5),
            (("a", 0, &tokens), ("a", 0, &other_tail), 3),
            (("a", 0, &tokens), ("a", 0, &other_head), 0),
            (("a", 0, &tokens), ("b", 0, &tokens), 0),
            (("", 0, &tokens), ("a", 0, &tokens), 0),
            // Two pages and a bit are public.
            (("a", 70, &tokens), ("b", 70, &tokens), 2),
            (("a", 70, &tokens), ("a", 70, &tokens), 5),
            (("a", 70, &tokens), ("b", 70, &other_tail), 2),
            (("a", 31, &tokens), ("b", 31, &tokens), 0),
            (("a", 160, &tokens), ("b", 160, &tokens), 5),
        ];
        for ((tenant_a, public_a, a), (tenant_b, public_b, b), expected) in rows {
            let found = shared(&names(scope(tenant_a, public_a), a), &names(scope(tenant_b, public_b), b));
            assert_eq!(found, expected, "{tenant_a}/{public_a} and {tenant_b}/{public_b}");
        }
        let elsewhere = PrefixScope { root: ChainHash::tenant_root(b"model2", "a"), ..scope("a", 0) };
        assert_eq!(shared(&names(scope("a", 0), &tokens), &names(elsewhere, &tokens)), 0);
    }

    #[test]
    fn a_name_tells_nothing_to_who_lacks_the_root() {
        let tokens: Vec<u32> = (0..96).collect();
        let scope = scope("a", 0);
        let names = names(scope, &tokens);
        // Whoever sees a name and knows all tokens cannot make the next one, with any name for a key.
        let guesses = names.iter().map(|key| names[0].page(key, &tokens[32..64]));
        assert!(guesses.into_iter().all(|guess| guess != names[1]));
        assert_eq!(names[0].page(&scope.root, &tokens[32..64]), names[1]);
        // What files say of one root differs from page to page.
        assert_ne!(scope.root.seal(&names[0]), scope.root.seal(&names[1]));
        // Another secret, other names: of the model's folder and of every page.
        let [one, other] = [[1; 32], [2; 32]].map(|store| model_secret(&store, b"model"));
        assert_ne!(one, other);
        assert_ne!(model_folder(&one), model_folder(&other));
        assert_ne!(model_folder(&one), one, "it must not be told from the folder");
        assert_ne!(ChainHash::tenant_root(&one, ""), ChainHash::tenant_root(&other, ""));
    }

    #[test]
    fn who_shares_a_public_prefix_is_part_of_its_names() {
        let roots: [&[&str]; 5] = [&[], &[""], &["a"], &["a", "b"], &["ab"]];
        for (i, one) in roots.iter().enumerate() {
            for other in &roots[..i] {
                assert_ne!(ChainHash::public_root(b"model", one), ChainHash::public_root(b"model", other));
            }
        }
    }

    #[test]
    fn names_do_not_depend_on_when_they_are_asked_for() {
        let tokens: Vec<u32> = (0..200).map(|i| i * 7).collect();
        let at_once = names(scope("a", 40), &tokens);
        for prompt_tokens in [0, 31, 32, 100, 200] {
            let mut chain = Chain::of_prompt(scope("a", 40), &tokens[..prompt_tokens], 4);
            assert_eq!(
                chain.hashes,
                at_once[..prompt_tokens / PAGE_TOKENS],
                "{prompt_tokens} tokens at first"
            );
            assert_eq!(chain.get(5, &tokens), Some(at_once[5]));
            let private = PrefixScope { shares: false, ..scope("a", 40) };
            assert_eq!(Chain::of_prompt(private, &tokens[..prompt_tokens], 4).hashes, []);
        }
        let mut chain = Chain::new(scope("a", 40));
        for length in 0..=tokens.len() {
            let index = length / PAGE_TOKENS;
            assert_eq!(chain.get(index, &tokens[..length]), None);
            if index > 0 {
                assert_eq!(chain.get(index - 1, &tokens[..length]), Some(at_once[index - 1]));
            }
        }
    }
}
