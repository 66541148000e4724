// Content hash of a system: 64-byte stripes over four lanes, each lane folding 64 x 64 -> 128 bit products, in chunks
// of 1 MiB that are hashed in parallel and combined in order. Not cryptographic: it tells systems apart, nothing more.
#include <algorithm>
#include <cstring>
#include <functional>
#include <vector>

#include "arrowschur/system.hpp"
#include "linalg/pool.hpp"
#include "system/cross.hpp"
#include "system/lazy_fingerprint.hpp"
#include "system/storage.hpp"

namespace arrowschur {
namespace {

constexpr std::uint64_t kTag = 0x3153595357525241u;  // "ARRWSYS1": the version of this format
constexpr std::size_t kChunk = std::size_t{1} << 20;
constexpr std::size_t kStripe = 64;

// First 64 fractional bits of the square roots of 2, 3, 5, 7 (FIPS 180-4 uses them too): odd-looking, nothing hidden.
constexpr std::uint64_t kSecret[4] = {0x6a09e667f3bcc908u, 0xbb67ae8584caa73bu, 0x3c6ef372fe94f82bu,
                                      0xa54ff53a5f1d36f1u};

inline std::uint64_t fold(std::uint64_t a, std::uint64_t b) noexcept {
  __extension__ typedef unsigned __int128 Wide;
  const Wide product = static_cast<Wide>(a) * b;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}
inline std::uint64_t mix(std::uint64_t state, std::uint64_t word) noexcept {
  return fold(state ^ kSecret[0], word ^ kSecret[1]) + (state << 7 | state >> 57) + word;
}

inline void stripe(const unsigned char* p, std::uint64_t lanes[4]) noexcept {
  for (int l = 0; l < 4; ++l) {
    std::uint64_t w[2];
    std::memcpy(w, p + 16 * l, sizeof w);
    // The addition keeps the first word when a product vanishes.
    lanes[l] = fold(w[0] ^ kSecret[l], w[1] ^ lanes[l]) + w[0];
  }
}

std::uint64_t hash_chunk(const unsigned char* p, std::size_t bytes) noexcept {
  std::uint64_t lanes[4] = {kSecret[3], kSecret[2], kSecret[1], kSecret[0]};
  std::size_t at = 0;
  for (; at + kStripe <= bytes; at += kStripe) stripe(p + at, lanes);
  if (at < bytes) {
    unsigned char last[kStripe] = {};
    std::memcpy(last, p + at, bytes - at);
    stripe(last, lanes);
  }
  std::uint64_t h = static_cast<std::uint64_t>(bytes);
  for (const std::uint64_t lane : lanes) h = mix(h, lane);
  return h;
}

std::uint64_t hash_bytes(std::uint64_t state, const void* data, std::size_t bytes) {
  const unsigned char* p = static_cast<const unsigned char*>(data);
  const std::size_t chunks = (bytes + kChunk - 1) / kChunk;
  std::vector<std::uint64_t> hashes(chunks);
  linalg::parallel_for_if(bytes >= 2 * kChunk, static_cast<Index>(chunks), [&](Index c) {
    const std::size_t begin = static_cast<std::size_t>(c) * kChunk;
    hashes[static_cast<std::size_t>(c)] = hash_chunk(p + begin, std::min(kChunk, bytes - begin));
  });
  state = mix(state, bytes);
  for (const std::uint64_t h : hashes) state = mix(state, h);
  return state;
}

struct Hasher {
  std::uint64_t state = kTag;
  std::size_t item;  // bytes per entry

  void number(Index x) { state = mix(state, static_cast<std::uint64_t>(x)); }
  void entries(const void* data, Index count) {
    state = hash_bytes(state, data, static_cast<std::size_t>(count) * item);
  }
  void values(const void* data, Index first, Index count) {
    entries(static_cast<const unsigned char*>(data) + static_cast<std::size_t>(first) * item, count);
  }
  void bytes(const void* data, std::size_t count) { state = hash_bytes(state, data, count); }
};

struct TermHasher {
  Hasher& h;
  Index k;

  void operator()(const DenseBorder& t) const { h.entries(t.data, k * k); }
  void operator()(const DiagonalBorder& t) const { h.entries(t.data, k); }
  void operator()(const BandedBorder& t) const {
    h.number(t.bandwidth);
    for (Index j = 0; j <= t.bandwidth; ++j) {  // without the entries behind the end of a band
      h.entries(static_cast<const unsigned char*>(t.bands) + static_cast<std::size_t>(j * k) * h.item, k - j);
    }
  }
  void operator()(const BlockDiagonalBorder& t) const {
    for (const Index size : t.sizes) h.number(size);
    h.entries(t.data, term_entries(t, k));
  }
  void operator()(const KroneckerBorder& t) const {
    h.number(t.p);
    for (const Index size : t.sizes) h.number(size);
    h.entries(t.factors, term_entries(t, k));
  }
  void operator()(const KroneckerProductBorder& t) const {
    for (const Index number : {t.pa, t.pb, t.offset}) h.number(number);
    h.entries(t.a, t.pa * t.pa);
    h.entries(t.b, t.pb * t.pb);
  }
  void operator()(const SparseBlockKroneckerBorder& t) const {
    h.number(t.p);
    h.bytes(t.blocks.data(), t.blocks.size() * sizeof(t.blocks[0]));
    h.entries(t.values, t.entries);
  }
  // The products of the frames follow from the frames.
  void operator()(const FramedKroneckerBorder& t) const {
    h.number(t.p);
    for (const std::size_t count : {t.groups.size(), t.blocks.size()}) h.number(static_cast<Index>(count));
    for (const auto& group : t.groups) {
      for (const Index number : {group.basis, group.width}) h.number(number);
      h.number(group.frame == nullptr ? 0 : 1);
      if (group.frame != nullptr) h.entries(group.frame, t.p * group.width);
    }
    for (const auto& block : t.blocks) {
      for (const Index number : {block.a, block.b}) h.number(number);
      h.values(t.values, block.data,
               t.groups[static_cast<std::size_t>(block.a)].basis * t.groups[static_cast<std::size_t>(block.b)].basis);
    }
  }
  // The caller's word for the content; without one, no two constructions are the same.
  void operator()(const OperatorBorder& t) const {
    h.number(t.tag.has_value() ? 1 : 0);
    h.number(static_cast<Index>(t.tag.has_value() ? *t.tag : reinterpret_cast<std::uintptr_t>(t.lock.get())));
    h.bytes(t.diagonal.data(), t.diagonal.size() * sizeof(double));
  }
};

// Normal forms: how the entries were ordered or repeated at construction does not matter.
struct CrossHasher {
  Hasher& h;
  Index n, k, total;

  void operator()(std::monostate, const cross::Layout&) const {}
  void operator()(const DenseCross& c, const cross::Layout&) const { h.entries(c.data, total * k); }
  void operator()(const BlockSparseCross& c, const cross::Layout& l) const {
    indices(c.block_offsets.data(), static_cast<Index>(c.block_offsets.size()));
    indices(c.indptr, n + 1);
    indices(c.block_index, c.indptr[n]);
    h.entries(c.values, l.stored);
  }
  void operator()(const KroneckerCross& c, const cross::Layout& l) const {
    const Index pairs = c.support_ptr[n];
    h.number(c.p);
    indices(c.support_ptr, n + 1);
    indices(c.support_base, pairs);
    h.entries(c.support_phi, pairs);
    if (c.j_ptr != nullptr) {
      indices(c.j_ptr, n + 1);
      indices(c.support_j, pairs);
    }
    h.entries(c.j, l.first_value.back());
  }
  // As for OperatorBorder. The supplement is content either way.
  void operator()(const OperatorCross& c, const cross::Layout& l) const {
    h.number(c.tag.has_value() ? 1 : 0);
    h.number(static_cast<Index>(c.tag.has_value() ? *c.tag : reinterpret_cast<std::uintptr_t>(c.lock.get())));
    h.number(static_cast<Index>(c.supplement.index()));
    std::visit([&](const auto& form) { (*this)(form, l.supplement ? *l.supplement : l); }, c.supplement);
  }
  void indices(const Index* data, Index count) const { h.bytes(data, static_cast<std::size_t>(count) * sizeof(Index)); }
};

}  // namespace

std::uint64_t ArrowSystem::fingerprint() const {
  Data::LazyFingerprint& lazy = *d_->fingerprint;
  std::call_once(lazy.once, [&] {
    const SystemParts& p = d_->parts;
    Hasher h;
    h.item = size_of(p.dtype);
    h.number(static_cast<Index>(p.dtype));
    h.number(p.n);
    h.number(p.k);
    // Rows of one size hash alike, however that was said.
    const bool one_size =
        std::adjacent_find(p.row_dims.begin(), p.row_dims.end(), std::not_equal_to<>()) == p.row_dims.end();
    h.number(one_size ? 1 : 0);
    for (Index i = 0; i < (one_size ? std::min<Index>(p.n, 1) : p.n); ++i) h.number(row_dim(i));
    h.entries(p.h_tt, is_uniform() ? d_->total_dim * p.d : d_->block_offsets.back());
    if (!std::holds_alternative<DenseCross>(p.cross)) h.number(static_cast<Index>(p.cross.index()));
    std::visit([&](const auto& form) { CrossHasher{h, p.n, p.k, d_->total_dim}(form, cross_layout()); }, p.cross);
    h.number(static_cast<Index>(p.border.terms.size()));
    for (const BorderTerm& term : p.border.terms) {
      h.number(static_cast<Index>(term.index()));
      std::visit(TermHasher{h, p.k}, term);
    }
    lazy.value = h.state;
  });
  return lazy.value;
}

}  // namespace arrowschur
