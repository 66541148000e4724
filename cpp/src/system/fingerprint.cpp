// Content hash of a system: 64-byte stripes over four lanes, each lane folding 64 x 64 -> 128 bit products, in chunks
// of 1 MiB that are hashed in parallel and combined in order. Not cryptographic: it tells systems apart, nothing more.
#include <algorithm>
#include <cstring>
#include <functional>
#include <vector>

#include "arrowschur/system.hpp"
#include "linalg/pool.hpp"
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
    h.entries(p.h_tb, d_->total_dim * p.k);
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
