#include "arrowschur/policy.hpp"

#include <charconv>
#include <cmath>

#include "arrowschur/error.hpp"
#include "plan/policy_json.hpp"

namespace arrowschur {

const char* to_string(MixedPrecision value) noexcept {
  switch (value) {
    case MixedPrecision::off:
      return "off";
    case MixedPrecision::refinement:
      return "refinement";
    case MixedPrecision::never:
      return "never";
  }
  return "unknown";
}

const char* to_string(RouteRule value) noexcept {
  switch (value) {
    case RouteRule::cost:
      return "cost";
    case RouteRule::width_cut:
      return "width_cut";
  }
  return "unknown";
}

namespace policy {

const char* to_string(BorderStrategy value) noexcept {
  return value == BorderStrategy::dense_direct ? "dense_direct" : "reduced_iterative";
}

const char* to_string(OperationKind kind) noexcept {
  switch (kind) {
    case OperationKind::gemm:
      return "gemm";
    case OperationKind::batched_gemm:
      return "batched_gemm";
    case OperationKind::gemv:
      return "gemv";
    case OperationKind::potrf:
      return "potrf";
    case OperationKind::small_batched_potrf:
      return "small_batched_potrf";
    case OperationKind::trsm:
      return "trsm";
    case OperationKind::xtwx:
      return "xtwx";
    case OperationKind::xtwy:
      return "xtwy";
    case OperationKind::joint_hessian_2x2:
      return "joint_hessian_2x2";
  }
  return "unknown";
}

}  // namespace policy

// ---- JSON -----------------------------------------------------------------------------------------------------------
namespace {

struct SizeField {
  const char* name;
  policy::Size DispatchPolicy::* member;
};
constexpr SizeField kSizes[] = {
    {"xtwx_flops_min", &DispatchPolicy::xtwx_flops_min},
    {"gemm_min_flops", &DispatchPolicy::gemm_min_flops},
    {"potrf_min_p", &DispatchPolicy::potrf_min_p},
    {"small_dense_batched_potrf_max_p", &DispatchPolicy::small_dense_batched_potrf_max_p},
    {"small_dense_batched_potrf_min_batch", &DispatchPolicy::small_dense_batched_potrf_min_batch},
};

const json::Value& member(const json::Value& object, const char* name, const char* expected) {
  const json::Value* value = object.find(name);
  if (value == nullptr) throw InvalidArgument(name, "no such field in the record", expected);
  return *value;
}

bool read_size(const std::string& text, policy::Size& size) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), size);
  return error == std::errc{} && end == text.data() + text.size() && !text.empty();
}

template <class E, std::size_t kCount>
E choice(const json::Value& object, const char* name, const E (&values)[kCount]) {
  std::string expected = "one of";
  for (const E value : values) expected += " '" + std::string(to_string(value)) + '\'';
  const json::Value& found = member(object, name, expected.c_str());
  const std::string* text = found.string();
  for (const E value : values) {
    if (text != nullptr && *text == to_string(value)) return value;
  }
  throw InvalidArgument(name, text != nullptr ? '\'' + *text + '\'' : json::dump(found), expected);
}

}  // namespace

json::Value to_value(const DispatchPolicy& record) {
  json::Object members;
  for (const SizeField& field : kSizes) {
    const policy::Size size = record.*field.member;
    // A number of JSON is a float64 for most readers: what it cannot hold travels as text.
    if (size <= (policy::Size{1} << 53)) {
      members.emplace_back(field.name, static_cast<double>(size));
    } else {
      members.emplace_back(field.name, std::to_string(size));
    }
  }
  members.emplace_back("mixed_precision", std::string(to_string(record.mixed_precision)));
  members.emplace_back("route_rule", std::string(to_string(record.route_rule)));
  return members;
}

DispatchPolicy policy_from_value(const json::Value& value) {
  if (value.object() == nullptr) throw InvalidArgument("policy", "something else", "a JSON object");
  DispatchPolicy record;
  for (const SizeField& field : kSizes) {
    constexpr const char* kExpected = "an integer in [0, 2^64)";
    const json::Value& found = member(value, field.name, kExpected);
    if (const double* x = found.number(); x != nullptr && *x >= 0.0 && *x <= 0x1p53 && *x == std::floor(*x)) {
      record.*field.member = static_cast<policy::Size>(*x);
    } else if (const std::string* text = found.string(); text != nullptr && read_size(*text, record.*field.member)) {
      continue;
    } else {
      throw InvalidArgument(field.name, json::dump(found), kExpected);
    }
  }
  constexpr MixedPrecision kMixed[] = {MixedPrecision::off, MixedPrecision::refinement, MixedPrecision::never};
  constexpr RouteRule kRules[] = {RouteRule::cost, RouteRule::width_cut};
  record.mixed_precision = choice(value, "mixed_precision", kMixed);
  record.route_rule = choice(value, "route_rule", kRules);
  return record;
}

std::string DispatchPolicy::to_json() const { return json::dump(to_value(*this)); }

DispatchPolicy DispatchPolicy::from_json(std::string_view text) {
  const auto value = json::parse(text);
  if (!value) throw InvalidArgument("policy", "text that is not JSON", "a JSON object");
  return policy_from_value(*value);
}

}  // namespace arrowschur
