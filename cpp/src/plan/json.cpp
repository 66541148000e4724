#include "plan/json.hpp"

#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>

namespace arrowschur::json {
namespace {

constexpr int kMostNested = 32;

class Parser {
 public:
  explicit Parser(std::string_view text) : rest_(text) {}

  std::optional<Value> whole() {
    auto result = value(0);
    skip_blanks();
    if (!rest_.empty()) return std::nullopt;
    return result;
  }

 private:
  void skip_blanks() {
    const auto from = rest_.find_first_not_of(" \t\r\n");
    rest_.remove_prefix(from == std::string_view::npos ? rest_.size() : from);
  }
  bool take(std::string_view token) {
    skip_blanks();
    if (!rest_.starts_with(token)) return false;
    rest_.remove_prefix(token.size());
    return true;
  }

  std::optional<Value> value(int depth) {
    if (depth > kMostNested) return std::nullopt;
    if (take("{")) return object(depth);
    if (take("[")) return array(depth);
    if (take("null")) return Value(nullptr);
    if (take("true")) return Value(true);
    if (take("false")) return Value(false);
    skip_blanks();
    if (rest_.starts_with('"')) {
      auto text = string();
      if (!text) return std::nullopt;
      return Value(std::move(*text));
    }
    return number();
  }

  std::optional<Value> object(int depth) {
    Object members;
    if (take("}")) return Value(std::move(members));
    do {
      skip_blanks();
      auto key = string();
      if (!key || !take(":")) return std::nullopt;
      auto member = value(depth + 1);
      if (!member) return std::nullopt;
      members.emplace_back(std::move(*key), std::move(*member));
    } while (take(","));
    if (!take("}")) return std::nullopt;
    return Value(std::move(members));
  }

  std::optional<Value> array(int depth) {
    Array items;
    if (take("]")) return Value(std::move(items));
    do {
      auto item = value(depth + 1);
      if (!item) return std::nullopt;
      items.push_back(std::move(*item));
    } while (take(","));
    if (!take("]")) return std::nullopt;
    return Value(std::move(items));
  }

  std::optional<Value> number() {
    const auto size = rest_.find_first_not_of("+-.eE0123456789");
    const std::string_view token = rest_.substr(0, size);
    double x = 0.0;
    const auto [end, error] = std::from_chars(token.data(), token.data() + token.size(), x);
    if (token.empty() || end != token.data() + token.size()) return std::nullopt;
    if (error == std::errc::result_out_of_range) {
      x = token.front() == '-' ? -std::numeric_limits<double>::infinity() : std::numeric_limits<double>::infinity();
    } else if (error != std::errc{}) {
      return std::nullopt;
    }
    rest_.remove_prefix(token.size());
    return Value(x);
  }

  std::optional<std::string> string() {
    if (!rest_.starts_with('"')) return std::nullopt;
    rest_.remove_prefix(1);
    std::string text;
    while (!rest_.empty()) {
      const char c = rest_.front();
      rest_.remove_prefix(1);
      if (c == '"') return text;
      if (c != '\\') {
        text += c;
        continue;
      }
      if (rest_.empty()) return std::nullopt;
      const char escaped = rest_.front();
      rest_.remove_prefix(1);
      if (escaped == 'n') {
        text += '\n';
      } else if (escaped == 't') {
        text += '\t';
      } else if (escaped == 'u') {
        unsigned code = 0;  // dump() writes control characters this way; other characters stay UTF-8
        const auto [end, error] =
            std::from_chars(rest_.data(), rest_.data() + std::min<std::size_t>(4, rest_.size()), code, 16);
        if (error != std::errc{} || end != rest_.data() + 4 || code > 0x7f) return std::nullopt;
        text += static_cast<char>(code);
        rest_.remove_prefix(4);
      } else if (escaped == '"' || escaped == '\\' || escaped == '/') {
        text += escaped;
      } else {
        return std::nullopt;
      }
    }
    return std::nullopt;
  }

  std::string_view rest_;
};

std::string number_text(double x) {
  if (std::isinf(x)) return x > 0 ? "1e999" : "-1e999";
  if (std::isnan(x)) return "null";
  // Whole numbers without an exponent: sizes and thresholds.
  if (x == std::floor(x) && std::abs(x) < 9007199254740992.0) return std::to_string(static_cast<std::int64_t>(x));
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, x).ptr;  // shortest that reads back exactly
  return std::string(text, end);
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char code[8];
      std::snprintf(code, sizeof code, "\\u%04x", static_cast<unsigned>(c));
      out += code;
    } else {
      out += c;
    }
  }
  return out + '"';
}

void write(const Value& value, int level, std::string& out) {
  const auto line = [&](int indent) { out += '\n' + std::string(2 * static_cast<std::size_t>(indent), ' '); };
  if (const auto* flag = std::get_if<bool>(&value)) {
    out += *flag ? "true" : "false";
  } else if (const auto* x = value.number()) {
    out += number_text(*x);
  } else if (const auto* text = value.string()) {
    out += quoted(*text);
  } else if (const auto* items = value.array()) {
    out += '[';
    for (std::size_t i = 0; i < items->size(); ++i) {
      if (i > 0) out += ", ";
      write((*items)[i], level + 1, out);
    }
    out += ']';
  } else if (const auto* members = value.object()) {
    out += '{';
    for (std::size_t i = 0; i < members->size(); ++i) {
      if (i > 0) out += ',';
      line(level + 1);
      out += quoted((*members)[i].first) + ": ";
      write((*members)[i].second, level + 1, out);
    }
    if (!members->empty()) line(level);
    out += '}';
  } else {
    out += "null";
  }
}

}  // namespace

const Value* Value::find(std::string_view key) const {
  const Object* members = object();
  if (members == nullptr) return nullptr;
  for (const auto& [name, value] : *members) {
    if (name == key) return &value;
  }
  return nullptr;
}

std::optional<Value> parse(std::string_view text) { return Parser(text).whole(); }

std::string dump(const Value& value) {
  std::string out;
  write(value, 0, out);
  return out;
}

}  // namespace arrowschur::json
