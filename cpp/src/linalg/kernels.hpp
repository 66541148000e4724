// The hot loops, compiled once per instruction set and chosen when the library is loaded.
//
// kernels_body.hpp is the one source; kernels_{baseline,avx2,avx512}.cpp compile it with different flags. A table of
// function pointers is taken per stage, never per row. No kernel is contracted by the compiler: fused multiply-adds are
// written out where the instruction set has them, so that specialised (d = 1..16) and dynamic kernels give the same
// bits.
//
// Packed panels. A T x k matrix is cut into panels of kPanel columns (192 bytes: 24 doubles or 48 floats, three AVX-512
// registers); panel p holds its rows one after another, kPanel entries each, padded with zeros at the right edge of the
// matrix. The same layout serves both operands of W'W: as vectors (a whole panel row) and as broadcasts (kStrip
// entries).
#pragma once

#include <string>
#include <vector>

#include "arrowschur/types.hpp"

namespace arrowschur::linalg {

template <class T>
inline constexpr Index kPanel = static_cast<Index>(192 / sizeof(T));  // columns of a packed panel
inline constexpr Index kStrip = 8;  // rows of the micro tile of C

// Row blocks up to this size run the kernels below (compile-time d up to kMaxFixed); larger ones go through BLAS.
inline constexpr Index kMaxFixed = 16;
inline constexpr Index kMaxSmall = 32;

// Factor layout of a bucket of row blocks of size d: block i has its factor L_i at l + i d d (row-major, the strict
// upper triangle is unused) and the reciprocals of its diagonal at inv + i d.

enum class RowGuard { none, relative, proxy };  // which condition estimate factor_rows computes

template <class T>
struct FactorRowsArgs {
  Index d = 0, count = 0;
  const T* a = nullptr;  // blocks [count, d, d], lower triangle read
  const T* shift = nullptr;  // [count, d]: what is added to the diagonal (ridge, damping, lift)
  T* l = nullptr;  // [count, d, d]
  T* inv = nullptr;  // [count, d]
  RowGuard guard = RowGuard::none;
  T* kappa = nullptr;  // [count]; relative: 1-norm condition of the equilibrated block; proxy: pivot ratio squared
  int* pivot_index = nullptr;  // [count]; -1, or the first pivot that is not positive and finite
  T* pivot = nullptr;  // [count]; its value
};

template <class T>
struct WhitenArgs {
  Index d = 0, count = 0;
  const T* b = nullptr;  // rows of B, leading dimension ldb
  Index ldb = 0;
  const Index* first = nullptr;  // [count]: first row of block i in b
  const T* l = nullptr;  // factors of the blocks
  const T* inv = nullptr;
  const T* u = nullptr;  // [count * d]: L^-1 g
  Index col_begin = 0, col_end = 0;  // columns to process; col_begin is a multiple of kPanel
  T* packed = nullptr;  // panel p at packed + p panel_stride; null: W is not stored
  Index panel_stride = 0;
  T* r = nullptr;  // [k]: r += W'u
};

template <class T>
struct KernelTable {
  // C[i, j] += alpha sum_r b[r kPanel + i] a[r kPanel + j],  i < kStrip, j < kPanel. alpha is +1 or -1.
  void (*rank_update)(Index rows, const T* a, const T* b, T alpha, T* c, Index ldc);
  // The same with other strides: C[i, j] += sum_r b[r b_step + i b_row] a[r a_step + j].
  void (*multiply)(Index rows, const T* a, Index a_step, const T* b, Index b_step, Index b_row, T* c, Index ldc);
  // The next kStrip rows x of a packed panel (kPanel entries each) become the solution of L x = b by substitution;
  // l points at the kStrip x kStrip diagonal block of a row-major lower triangle.
  void (*solve_strip)(const T* l, Index ldl, T* x);
  void (*factor_rows)(const FactorRowsArgs<T>&, bool force_dynamic);
  void (*whiten)(const WhitenArgs<T>&, bool force_dynamic);
  // x_i <- L_i^-1 x_i and x_i <- L_i^-T x_i; x is [count * d, m] row-major.
  void (*solve_lower)(Index d, Index count, const T* l, const T* inv, T* x, Index m);
  void (*solve_upper)(Index d, Index count, const T* l, const T* inv, T* x, Index m);
};

// Rows of a block-sparse matrix: entry e of a row is the d x b block of border block block[e], row-major, one after
// another.
template <class In>
struct BlockRowsArgs {
  Index d = 0, count = 0;  // rows of blocks
  Index b = 0;  // columns of every border block; 0: they differ
  const Index* ptr = nullptr;  // [count + 1]: entries of the rows
  const Index* block = nullptr;  // border block of an entry
  const Index* offsets = nullptr;  // columns of the border blocks
  const In* values = nullptr;  // of the first entry, ptr[0]
  const double* x = nullptr;  // z = W x unless null
  double* z = nullptr;  // [count * d]
  const double* v = nullptr;  // [count * d], when x is null
  double* acc = nullptr;  // acc += W'z or W'v unless null
};

// The part of W'W that one border block a owns: its rows, and the columns of the blocks up to a.
template <class In>
struct BlockGramArgs {
  Index count = 0;  // entries of block a
  const Index* entries = nullptr;  // ascending rows
  Index width = 0;  // columns of a
  Index d = 0, b = 0;  // size of every row, of every border block; 0: they differ
  const Index* row_of = nullptr;  // by entry
  const Index* ptr = nullptr;  // entries of a row
  const Index* block = nullptr;
  const Index* offsets = nullptr;
  const Index* value_ptr = nullptr;  // by entry
  const Index* column = nullptr;  // by border block: its first column in c, or -1: left out; null: as `offsets`
  bool own_only = false;  // only the block of a itself
  const In* values = nullptr;
  double* c = nullptr;  // c[p, column + q] -= sum_r W[r, p] W[r, q]; the lower triangle of the block of a itself
  Index ldc = 0;
  // Scratch, used for b = 2, 3, 6, 9: a tile per border block, where sums wait until the entries are done. `touched` is
  // zero between calls.
  double* tiles = nullptr;  // [blocks, kGramTile]
  Index* list = nullptr;  // [blocks]
  char* touched = nullptr;  // [blocks]
};
// W'W of uniform rows and border blocks, into tiles: tile (a, b), b <= a, is number a (a + 1) / 2 + b less those of the
// blocks before `begin`. The entries come in chunks of rows, those of a chunk by border block, those of a block in
// ascending rows: a chunk of W and the tiles of one block stay in cache, and a tile is summed in the order of the rows.
struct GramEntry {
  Index entry, first;  // and the first entry of its row
};
template <class In>
struct GramBandArgs {
  Index begin = 0, end = 0;  // border blocks a
  Index d = 0, b = 0;  // size of every row, of every border block
  Index chunks = 0, blocks = 0;
  const GramEntry* list = nullptr;  // block a of chunk c: list[ptr[c blocks + a]] .. list[ptr[c blocks + a + 1] - 1]
  const Index* ptr = nullptr;
  const Index* block = nullptr;  // of an entry
  const In* values = nullptr;
  double* tiles = nullptr;  // kGramTile numbers each, +=
};
inline constexpr Index kGramTile = 96;  // entries of the largest tile: 9 x 9, with padding

// Normal equations of residual blocks (q lines each) that touch border blocks of b columns, for rows of size d: what
// system/jacobians_sparse.cpp does for any sizes.
struct NormalRowsArgs {
  Index begin = 0, end = 0;  // rows
  const Index* first = nullptr;  // residual blocks[first[i]] .. of row i; null: residual block i
  const Index* blocks = nullptr;
  const double* j_t = nullptr;  // [residual blocks, q, d]
  const double* residual = nullptr;  // [residual blocks, q]
  const double* weights = nullptr;  // null: ones
  bool weights_per_line = false;
  const Index* j_ptr = nullptr;  // entries of the residual blocks
  const Index* j_block = nullptr;  // border block of an entry
  const double* j_beta = nullptr;  // [entries, q, b]
  const Index* place = nullptr;  // entry -> entry of the cross block
  const Index* ptr = nullptr;  // entries of the cross block, by row
  bool distinct = false;  // no two entries have the same place
  double* h_tt = nullptr;  // [rows, d, d]
  double* g_t = nullptr;  // [rows, d]
  double* values = nullptr;  // [entries of the cross block, d, b]
  double* tiles = nullptr;  // [border blocks, kGramTile] +=: sums for read_tiles; null: not wanted
};

// Kernels on float64 alone.
struct Float64Kernels {
  // The rows of the normal equations, or false: these sizes have no kernel.
  bool (*normal_rows)(Index d, Index q, Index b, const NormalRowsArgs&);
  // The lower triangles and the gradient that `tiles` hold: h [blocks, b, b], g [blocks, b].
  void (*read_tiles)(Index b, Index blocks, const double* tiles, double* h, double* g);
  // The rows of block_rows, whitened: every block X of row i, of b columns (0: they differ), becomes L_i^-1 X. `values`
  // may be `from`.
  void (*whiten_blocks)(Index d, Index b, Index count, const double* l, const double* inv, const Index* ptr,
                        const Index* value_ptr, const double* from, double* values);
  // c [b, b] -= a tile of gram_band; its lower triangle only when `lower`.
  void (*subtract_gram_tile)(Index b, const double* tile, double* c, Index ldc, bool lower);
};

// Kernels on the data as stored (In), always accumulated in float64.
template <class In>
struct DataKernelTable {
  // z[r] = sum_j b[r, j] x[j]; row_abs[r] = sum_j |b[r, j]| unless null. b is [rows, k] with leading dimension ldb.
  void (*rows_dot)(Index rows, Index k, const In* b, Index ldb, const double* x, double* z, double* row_abs);
  // acc[j] += sum_r v[r] b[r, j] in row order; col_abs[j] += sum_r |b[r, j]| unless null.
  void (*rows_axpy)(Index rows, Index k, const In* b, Index ldb, const double* v, double* acc, double* col_abs);
  // Symmetric blocks from their lower triangles: y_i = A_i x_i + shift_i x_i; abs_i[a] = sum_b |(A_i + shift_i)[a, b]|
  // unless null. a is [count, d, d], shift, x, y, abs are [count, d].
  void (*block_matvec)(Index d, Index count, const In* a, const double* shift, const double* x, double* y, double* abs);
  // acc += B'(B x) in row order, b [rows, k] with leading dimension ldb. Memory is read once: a few rows at a time stay
  // in cache between the two products, while the next ones are fetched.
  void (*rows_gram)(Index rows, Index k, const In* b, Index ldb, const double* x, double* acc);
  void (*block_rows)(const BlockRowsArgs<In>&);
  // z = |W| 1 and acc += |W|' 1: x and v are not read.
  void (*block_abs_sums)(const BlockRowsArgs<In>&);
  void (*block_gram)(const BlockGramArgs<In>&);
  bool (*gram_band)(const GramBandArgs<In>&);  // false: no kernel for these sizes
  // c[i, j] -= scale sum_r a[r, i] b[r, j], a and b [d, p], c with leading dimension ldc; j <= i only when `lower`.
  void (*subtract_outer)(Index d, Index p, double scale, const In* a, const In* b, double* c, Index ldc, bool lower);
};

struct Kernels {
  const char* name;
  KernelTable<double> f64;
  KernelTable<float> f32;
  DataKernelTable<double> data64;
  DataKernelTable<float> data32;
  Float64Kernels only64;

  template <class T>
  const KernelTable<T>& table() const noexcept {
    if constexpr (sizeof(T) == sizeof(double)) {
      return f64;
    } else {
      return f32;
    }
  }
  template <class In>
  const DataKernelTable<In>& data() const noexcept {
    if constexpr (sizeof(In) == sizeof(double)) {
      return data64;
    } else {
      return data32;
    }
  }
};

const Kernels& kernels() noexcept;  // the set in use
const char* instruction_set() noexcept;
std::vector<std::string> compiled_instruction_sets();
void force_instruction_set(const std::string& name);  // throws InvalidArgument

}  // namespace arrowschur::linalg
