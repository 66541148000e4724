// The project's test header: named cases that register themselves, checks that print both sides, one main per file.
//
//     TEST(FirstClaim) {
//       CHECK(f(2) == 4);
//       CHECK_NEAR(g(2.0), 4.0, 1e-14);            // |a - b| <= tolerance max(|a|, |b|), printed when it fails
//       CHECK_THROWS(InvalidArgument, f(-1));
//     }
//     CHECK_MAIN()
//
// Run with the names of cases as arguments to run only those. A failed check is reported and the case goes on; REQUIRE
// ends the case. Checks belong to the thread that runs the case.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <iostream>
#include <span>
#include <sstream>
#include <string>
#include <typeinfo>
#include <vector>

namespace checks {

struct Case {
  const char* name;
  void (*run)();
};

inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}
inline int& failures_of_case() {
  static int count = 0;
  return count;
}
struct Registration {
  Registration(const char* name, void (*run)()) { cases().push_back({name, run}); }
};
struct EndOfCase {};  // thrown by REQUIRE

inline void fail(const char* file, int line, const std::string& what) {
  std::cout << file << ":" << line << ": " << what << "\n";
  ++failures_of_case();
}

template <class T>
std::string text(const T& value) {
  std::ostringstream out;
  out.precision(17);
  if constexpr (requires { out << value; }) {
    out << value;
  } else {
    out << "(" << sizeof(T) << " bytes)";
  }
  return out.str();
}

template <class A, class B>
void equal(const char* file, int line, const char* expressions, const A& a, const B& b) {
  if (a == b) return;
  fail(file, line, std::string(expressions) + " are not equal: " + text(a) + " and " + text(b));
}

inline void near(const char* file, int line, const char* expressions, double a, double b, double tolerance) {
  const double size = std::max(std::fabs(a), std::fabs(b));
  if (a == b || (std::isfinite(size) && std::fabs(a - b) <= tolerance * size)) return;  // false for NaN
  fail(file, line,
       std::string(expressions) + " differ by " + text(std::fabs(a - b)) + ", more than " + text(tolerance) +
           " relative: " + text(a) + " and " + text(b));
}

// Maximum norms: |a - b| <= tolerance max(|a|, |b|).
inline void near(const char* file, int line, const char* expressions, std::span<const double> a,
                 std::span<const double> b, double tolerance) {
  if (a.size() != b.size()) {
    return fail(file, line,
                std::string(expressions) + " have " + text(a.size()) + " and " + text(b.size()) + " entries");
  }
  double size = 0.0, gap = 0.0;
  std::size_t worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i] && !std::isfinite(a[i])) continue;  // equal infinities say nothing of a size
    const double larger = std::max(std::fabs(a[i]), std::fabs(b[i])), here = std::fabs(a[i] - b[i]);
    if (!std::isfinite(here)) {
      gap = here;
      worst = i;
      break;
    }
    size = std::max(size, larger);
    if (here > gap) {
      gap = here;
      worst = i;
    }
  }
  if (std::isfinite(gap) && gap <= tolerance * size) return;
  fail(file, line,
       std::string(expressions) + " differ by " + text(gap) + " at " + text(worst) + ", more than " + text(tolerance) +
           " of " + text(size) + ": " + text(a[worst]) + " and " + text(b[worst]));
}

inline int run_all(int argc, char** argv) {
  int passed = 0, failed = 0;
  for (const Case& c : cases()) {
    bool wanted = argc < 2;
    for (int i = 1; i < argc; ++i) wanted = wanted || std::string(argv[i]) == c.name;
    if (!wanted) continue;
    failures_of_case() = 0;
    try {
      c.run();
    } catch (const EndOfCase&) {
    } catch (const std::exception& error) {
      fail(c.name, 0, std::string("exception ") + typeid(error).name() + ": " + error.what());
    }
    if (failures_of_case() == 0) {
      ++passed;
    } else {
      ++failed;
      std::cout << "FAILED " << c.name << "\n";
    }
  }
  std::cout << passed << " passed, " << failed << " failed" << std::endl;
  return failed == 0 && passed > 0 ? 0 : 1;
}

}  // namespace checks

#define TEST(name)                                                             \
  static void test_##name();                                                   \
  static const ::checks::Registration registration_##name(#name, test_##name); \
  static void test_##name()

#define CHECK(...)                                                        \
  do {                                                                    \
    if (!(__VA_ARGS__)) ::checks::fail(__FILE__, __LINE__, #__VA_ARGS__); \
  } while (false)

#define REQUIRE(...)                                    \
  do {                                                  \
    if (!(__VA_ARGS__)) {                               \
      ::checks::fail(__FILE__, __LINE__, #__VA_ARGS__); \
      throw ::checks::EndOfCase{};                      \
    }                                                   \
  } while (false)

#define CHECK_EQUAL(a, b) ::checks::equal(__FILE__, __LINE__, #a " and " #b, (a), (b))
#define CHECK_NEAR(a, b, tolerance) ::checks::near(__FILE__, __LINE__, #a " and " #b, (a), (b), (tolerance))

// The exact type or one derived from it; anything else fails the check, with its message.
#define CHECK_THROWS(Type, ...)                                                                           \
  do {                                                                                                    \
    bool thrown_ = false;                                                                                 \
    try {                                                                                                 \
      (void)(__VA_ARGS__);                                                                                \
    } catch (const Type&) {                                                                               \
      thrown_ = true;                                                                                     \
    } catch (const std::exception& other_) {                                                              \
      thrown_ = true;                                                                                     \
      ::checks::fail(__FILE__, __LINE__,                                                                  \
                     #__VA_ARGS__ " threw something else than " #Type ": " + std::string(other_.what())); \
    }                                                                                                     \
    if (!thrown_) ::checks::fail(__FILE__, __LINE__, #__VA_ARGS__ " did not throw " #Type);               \
  } while (false)

// The same, and the message contains `part`.
#define CHECK_THROWS_WITH(Type, part, ...)                                                                             \
  do {                                                                                                                 \
    bool thrown_ = false;                                                                                              \
    try {                                                                                                              \
      (void)(__VA_ARGS__);                                                                                             \
    } catch (const Type& error_) {                                                                                     \
      thrown_ = true;                                                                                                  \
      if (std::string(error_.what()).find(part) == std::string::npos) {                                                \
        ::checks::fail(__FILE__, __LINE__, std::string("the message '") + error_.what() + "' lacks '" + (part) + "'"); \
      }                                                                                                                \
    } catch (const std::exception& other_) {                                                                           \
      thrown_ = true;                                                                                                  \
      ::checks::fail(__FILE__, __LINE__,                                                                               \
                     #__VA_ARGS__ " threw something else than " #Type ": " + std::string(other_.what()));              \
    }                                                                                                                  \
    if (!thrown_) ::checks::fail(__FILE__, __LINE__, #__VA_ARGS__ " did not throw " #Type);                            \
  } while (false)

#define CHECK_MAIN() \
  int main(int argc, char** argv) { return ::checks::run_all(argc, argv); }
