// The little JSON that policy records need: objects, arrays, numbers, strings, booleans. Objects keep their order.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace arrowschur::json {

class Value;
using Array = std::vector<Value>;
using Object = std::vector<std::pair<std::string, Value>>;

class Value : public std::variant<std::nullptr_t, bool, double, std::string, Array, Object> {
 public:
  using variant::variant;
  const Value* find(std::string_view key) const;  // member of an object; null when there is none
  // The value as the type, null when it has another.
  const double* number() const { return std::get_if<double>(this); }
  const std::string* string() const { return std::get_if<std::string>(this); }
  const Array* array() const { return std::get_if<Array>(this); }
  const Object* object() const { return std::get_if<Object>(this); }
};

// None for text that is not one JSON value. Infinity, which JSON lacks, is written as 1e999 and read back as infinity.
std::optional<Value> parse(std::string_view text);
std::string dump(const Value& value);  // numbers round-trip; two spaces per level

}  // namespace arrowschur::json
