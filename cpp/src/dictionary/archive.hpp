// Plain values to bytes and back, in the byte order of the machine: the state of a stream.
#pragma once

#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "dictionary/errors.hpp"

namespace arrowschur::dictionary {

class Writer {
 public:
  template <class T>
    requires std::is_trivially_copyable_v<T>
  void operator()(const T& value) {
    out.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void operator()(const std::string& text) {
    (*this)(static_cast<Index>(text.size()));
    out += text;
  }
  template <class T>
  void operator()(const std::vector<T>& values) {
    (*this)(static_cast<Index>(values.size()));
    array(values.data(), static_cast<Index>(values.size()));
  }
  void length(Index count, std::size_t) { (*this)(count); }
  template <class T>
  void array(const T* values, Index count) {
    if (count > 0) out.append(reinterpret_cast<const char*>(values), static_cast<std::size_t>(count) * sizeof(T));
  }
  std::string out;
};

class Reader {
 public:
  explicit Reader(std::string_view bytes) : left_(bytes) {}
  template <class T>
    requires std::is_trivially_copyable_v<T>
  void operator()(T& value) {
    std::memcpy(&value, take(sizeof value), sizeof value);
  }
  void operator()(bool& value) {
    unsigned char byte = 0;
    (*this)(byte);
    if (byte > 1) damaged();
    value = byte == 1;
  }
  void operator()(std::string& text) {
    Index n = 0;
    length(n, 1);
    text.assign(take(static_cast<std::size_t>(n)), static_cast<std::size_t>(n));
  }
  template <class T>
  void operator()(std::vector<T>& values) {
    Index n = 0;
    length(n, sizeof(T));
    values.resize(static_cast<std::size_t>(n));
    array(values.data(), n);
  }
  template <class T>
  void array(T* values, Index count) {
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
    if (bytes > 0) std::memcpy(values, take(bytes), bytes);
  }
  // How many entries follow; each takes so many bytes at least.
  void length(Index& n, std::size_t each) {
    (*this)(n);
    if (n < 0 || static_cast<std::size_t>(n) > left_.size() / each) damaged();
  }
  bool done() const noexcept { return left_.empty(); }
  std::size_t left() const noexcept { return left_.size(); }
  [[noreturn]] static void damaged() {
    throw invalid("the state of the stream is damaged", "state", "bytes that do not fit together", "what save() wrote");
  }

 private:
  const char* take(std::size_t bytes) {
    if (bytes > left_.size()) damaged();
    const char* at = left_.data();
    left_.remove_prefix(bytes);
    return at;
  }
  std::string_view left_;
};

}  // namespace arrowschur::dictionary
