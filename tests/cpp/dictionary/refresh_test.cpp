#include "dictionary/refresh.hpp"

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <algorithm>

#include "../check.hpp"
#include "dictionary/fixture.hpp"
#include "linalg/pool.hpp"

namespace {

using namespace arrowschur;
using dictionary::RefreshReport;
using dictionary::Solver;
using dictionary::Statistics;
using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr Index kDense = Index{1} << 30, kSparse = 0;

struct System {
  Index n, p, k, s;
  std::vector<float> x;
  std::vector<std::uint32_t> indices;
  std::vector<float> codes;

  Statistics statistics(Index budget) const {
    Statistics st(k, p, budget);
    st.add({x.data(), p, n}, indices.data(), codes.data(), s);
    return st;
  }
  Matrix a() const {
    Matrix c = Matrix::Zero(n, k);
    for (Index i = 0; i < n; ++i) {
      for (Index j = 0; j < s; ++j) c(i, indices[at(i * s + j)]) += static_cast<double>(codes[at(i * s + j)]);
    }
    return c.transpose() * c;
  }
  Matrix b() const {
    Matrix m = Matrix::Zero(k, p);
    for (Index i = 0; i < n; ++i) {
      for (Index j = 0; j < s; ++j) {
        for (Index c = 0; c < p; ++c) {
          m(indices[at(i * s + j)], c) +=
              static_cast<double>(codes[at(i * s + j)]) * static_cast<double>(x[at(i * p + c)]);
        }
      }
    }
    return m;
  }
  static std::size_t at(Index i) { return static_cast<std::size_t>(i); }
};

System five_rows() {
  System y{5,
           4,
           5,
           3,
           {},
           {0, 1, 2, 1, 2, 3, 2, 3, 4, 3, 4, 0, 4, 0, 1},
           {1, .5f, -.3f, .7f, -.2f, .4f, -.6f, .9f, .1f, .3f, -.5f, .8f, .2f, .6f, -.4f}};
  for (int i = 0; i < 5; ++i) {
    for (int c = 0; c < 4; ++c) y.x.push_back(static_cast<float>((7 * i + 3 * c + 1) % 13 - 6) / 4.0f);
  }
  return y;
}

// Rows of s atoms, each near the row's own place so that A is sparse.
System random_system(Index k, Index rows_per_atom, Index p, std::uint64_t seed, Index reach) {
  fixture::SplitMix64 random(seed);
  System y{k * rows_per_atom, p, k, 3, {}, {}, {}};
  for (Index i = 0; i < y.n; ++i) {
    std::vector<Index> atoms;
    while (atoms.size() < 3) {
      const Index a = (i + static_cast<Index>(random.unit() * static_cast<double>(reach))) % k;
      if (std::find(atoms.begin(), atoms.end(), a) == atoms.end()) atoms.push_back(a);
    }
    for (const Index a : atoms) {
      y.indices.push_back(static_cast<std::uint32_t>(a));
      y.codes.push_back(static_cast<float>(random.normal()));
    }
    for (Index c = 0; c < p; ++c) y.x.push_back(static_cast<float>(random.normal()));
  }
  return y;
}

struct Solved {
  RefreshReport report;
  Matrix d;
};
Solved solve(const System& y, Index budget, Solver solver, double ridge = 1e-6) {
  Statistics st = y.statistics(budget);
  std::vector<char> live;
  for (const auto f : st.fires) live.push_back(f > 0 ? 1 : 0);
  const std::vector<float> previous(static_cast<std::size_t>(y.k * y.p), 0.0f);
  Solved out;
  out.report = dictionary::refresh(st, y.p, live, previous.data(), ridge, kDense, solver);
  out.d = Eigen::Map<const Matrix>(st.b.data(), y.k, y.p);
  return out;
}

}  // namespace

TEST(FiveRowsByHand) {
  const System y = five_rows();
  const double diagonal[] = {2, .9, .49, 1.06, .3};
  Statistics st = y.statistics(kDense);
  for (Index k = 0; k < 5; ++k) CHECK_NEAR(st.a.diagonal(k), diagonal[k], 1e-6);
  CHECK_NEAR(st.a.row(1)[0], .26, 1e-6);
  CHECK_NEAR(st.a.row(2)[0], -.3, 1e-6);

  Matrix want(5, 4);
  want << -0.362448, 0.734935, -0.078530, 1.018853, 0.870716, 1.368906, -1.692080, -1.193891, 4.409661, 6.397896,
      -3.915198, -1.926964, 1.931036, 3.928289, -2.121417, -0.124163, -0.921284, 0.532883, 0.601492, 2.055659;
  const Matrix system = y.a() + 1e-6 * Matrix::Identity(5, 5), b = y.b();
  const Matrix whole = system.llt().solve(b);
  for (const Solver solver : {Solver::cholesky, Solver::conjugate_gradients}) {
    for (const Index budget : {kDense, kSparse}) {
      const Solved got = solve(y, budget, solver);
      CHECK((got.d - want).cwiseAbs().maxCoeff() < 1e-5);
      CHECK((got.d - whole).cwiseAbs().maxCoeff() < 1e-5);
      const Matrix rounded = got.d.cast<float>().cast<double>();
      CHECK((system * rounded - b).norm() < 1e-6 * b.norm());
      CHECK(got.report.failed_columns == 0);
    }
  }
}

TEST(RandomSparseSystemsOnBothPaths) {
  for (const Index m : {600, 2000}) {
    const System y = random_system(m, 6, 24, 11, 40);
    const Matrix system = y.a() + 1e-6 * Matrix::Identity(m, m), b = y.b();
    for (const Solver solver : {Solver::cholesky, Solver::conjugate_gradients}) {
      const Solved got = solve(y, kDense, solver);
      CHECK(got.report.relative_residual <= 1e-10);
      CHECK(got.report.failed_columns == 0);
      const double residual = (system * got.d - b).norm() / b.norm();
      CHECK(residual <= 1e-10);
      // the probes of the Cholesky path estimate what is true
      CHECK(got.report.relative_residual <= 10.0 * residual && residual <= 10.0 * got.report.relative_residual);
      CHECK_EQUAL(got.report.method, solver == Solver::cholesky ? "cholesky" : "conjugate_gradients");
    }
  }
}

TEST(ThreadsAndMinibatchesChangeNoBit) {
  const System y = random_system(900, 20, 40, 3, 900);
  const auto statistics = [&](int threads, Index batch, Index budget) {
    const linalg::ThreadScope scope(threads);
    Statistics st(y.k, y.p, budget);
    for (Index i = 0; i < y.n; i += batch) {
      const Index count = std::min(batch, y.n - i);
      st.add({y.x.data() + i * y.p, y.p, count}, y.indices.data() + i * y.s, y.codes.data() + i * y.s, y.s);
    }
    std::vector<double> all(st.b.begin(), st.b.end());
    for (Index r = 0; r < y.k; ++r) {
      st.a.each(r, [&](Index l, double v) {
        all.push_back(static_cast<double>(l));
        all.push_back(v);
      });
      all.push_back(st.a.diagonal(r));
    }
    return all;
  };
  const auto want = statistics(1, y.n, kDense);
  CHECK(statistics(2, y.n, kDense) == want);
  CHECK(statistics(2, 512, kDense) == want);
  CHECK(statistics(2, 77, kSparse) == want);

  for (const Solver solver : {Solver::cholesky, Solver::conjugate_gradients}) {
    Matrix d[2];
    for (int threads : {1, 2}) {
      const linalg::ThreadScope scope(threads);
      d[threads - 1] = solve(y, kDense, solver).d;
    }
    CHECK(d[0] == d[1]);
  }
}

TEST(ComponentsAreSolvedApart) {
  // Atoms 0..299, 300..599 and the single 605; 600..604 do not fire.
  System y = random_system(300, 8, 16, 9, 30);
  const std::size_t half = y.indices.size();
  for (std::size_t e = 0; e < half; ++e) {
    y.indices.push_back(y.indices[e] + 300);
    y.codes.push_back(y.codes[e]);
  }
  const std::size_t rows = y.x.size();
  for (std::size_t e = 0; e < rows; ++e) y.x.push_back(2.0f * y.x[e]);
  y.n *= 2;
  y.k = 606;
  for (int r = 0; r < 4; ++r) {
    ++y.n;
    y.indices.insert(y.indices.end(), {605, 605, 605});
    y.codes.insert(y.codes.end(), {1.0f + static_cast<float>(r), 0.0f, 0.0f});
    for (Index c = 0; c < y.p; ++c) y.x.push_back(static_cast<float>(r - 1));
  }
  for (const Index budget : {kDense, kSparse}) {
    for (const Solver solver : {Solver::cholesky, Solver::conjugate_gradients}) {
      const Solved got = solve(y, budget, solver);
      CHECK(got.report.components == 3);
      CHECK(got.report.max_component == 300);
      CHECK((2.0 * got.d.topRows(300) - got.d.middleRows(300, 300)).cwiseAbs().maxCoeff() < 1e-9);
      CHECK((got.d.middleRows(600, 5)).isZero(0.0));
      CHECK_NEAR(got.d(605, 0), (-1.0 + 3.0 + 2.0 * 4.0) / (1.0 + 4.0 + 9.0 + 16.0 + 1e-6), 1e-12);
      const Matrix system = y.a() + 1e-6 * Matrix::Identity(606, 606), b = y.b();
      CHECK((system * got.d - b).norm() <= 1e-10 * b.norm());
    }
  }
}

// Fewer rows than atoms, and a ridge that is no help to conjugate gradients: the rule of costs chooses them, and the
// factorization ends it.
TEST(IllConditionedSystemsAreFactoredInTheEnd) {
  const System y = random_system(900, 1, 8, 4, 900);
  const Solved got = solve(y, kDense, Solver::automatic, 1e-7);
  CHECK_EQUAL(got.report.method, "mixed");
  CHECK_EQUAL(got.report.failed_columns, 0);
  const Matrix b = y.b();
  CHECK(((y.a() + 1e-7 * Matrix::Identity(900, 900)) * got.d - b).norm() <= 1e-10 * b.norm());
  CHECK(got.report.relative_residual <= 1e-10);
}

// Atoms that are out share entries of A with those that are in, before, between and behind them.
TEST(EntriesOfAtomsThatAreOutDoNotCount) {
  const System y = random_system(300, 6, 8, 17, 20);
  const Matrix a = y.a(), b = y.b();
  std::vector<char> live(300, 1);
  std::vector<Index> in;
  for (Index k = 0; k < 300; ++k) {
    if (k % 3 == 0 || k / 50 == 2 || k > 290) live[static_cast<std::size_t>(k)] = 0;
    if (live[static_cast<std::size_t>(k)] != 0) in.push_back(k);
  }
  const auto m = static_cast<Index>(in.size());
  Matrix part(m, m), rhs(m, 8);
  for (Index i = 0; i < m; ++i) {
    rhs.row(i) = b.row(in[static_cast<std::size_t>(i)]);
    for (Index j = 0; j < m; ++j) part(i, j) = a(in[static_cast<std::size_t>(i)], in[static_cast<std::size_t>(j)]);
  }
  const Matrix want = (part + 1e-3 * Matrix::Identity(m, m)).llt().solve(rhs);
  const std::vector<float> previous(static_cast<std::size_t>(y.k * y.p), 0.0f);
  for (const Solver solver : {Solver::automatic, Solver::cholesky, Solver::conjugate_gradients}) {
    for (const Index budget : {kDense, kSparse}) {
      Statistics st = y.statistics(budget);
      const RefreshReport report = dictionary::refresh(st, y.p, live, previous.data(), 1e-3, kDense, solver);
      CHECK(report.relative_residual <= 1e-10);
      for (Index i = 0; i < m; ++i) {
        const Index k = in[static_cast<std::size_t>(i)];
        const Eigen::Map<const Eigen::RowVectorXd> got(st.b.data() + k * y.p, y.p);
        CHECK((got - want.row(i)).norm() <= 1e-8 * (1.0 + want.row(i).norm()));
      }
    }
  }
}

TEST(SingularSystemsAreBumped) {
  System y = random_system(400, 8, 16, 21, 50);
  for (std::size_t e = 0; e < y.indices.size(); e += 3) {  // atom 399 always fires with 398, equally
    y.indices[e + 1] = 398;
    y.indices[e + 2] = 399;
    y.indices[e] %= 398;
    y.codes[e + 2] = y.codes[e + 1];
  }
  const Solved got = solve(y, kDense, Solver::cholesky, 0.0);
  CHECK(got.report.bump > 0.0);
  CHECK(got.d.allFinite());
  const Matrix b = y.b(), residual = (y.a() + got.report.bump * Matrix::Identity(400, 400)) * got.d - b;
  CHECK(residual.norm() <= 1e-6 * b.norm());
}

CHECK_MAIN()
