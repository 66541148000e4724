#include "arrowschur/profile.hpp"

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <mutex>
#include <system_error>

#include <unistd.h>

#include "arrowschur/error.hpp"
#include "arrowschur/threads.hpp"
#include "arrowschur/version.hpp"
#include "backend/device_loader.hpp"
#include "backend/measure_device.hpp"
#include "linalg/kernels.hpp"
#include "plan/device_mode.hpp"
#include "plan/measure.hpp"
#include "plan/policy_json.hpp"
#include "system/format.hpp"

namespace arrowschur {
namespace {

struct ProfileField {
  const char* name;
  double MachineProfile::* member;
  bool zero_allowed;
};
constexpr ProfileField kFields[] = {
    {"mem_bw", &MachineProfile::mem_bw, false},
    {"rate_vec", &MachineProfile::rate_vec, false},
    {"rate_mat", &MachineProfile::rate_mat, false},
    {"link_bw", &MachineProfile::link_bw, false},
    {"t_launch", &MachineProfile::t_launch, true},
    {"t_sync", &MachineProfile::t_sync, true},
    {"half_reduce", &MachineProfile::half_reduce, true},
    {"half_factor", &MachineProfile::half_factor, true},
    {"panel", &MachineProfile::panel, false},
    {"t_panel", &MachineProfile::t_panel, true},
};

void require(const MachineProfile& profile) {
  for (const ProfileField& field : kFields) {
    const double x = profile.*field.member;
    const bool link = field.member == &MachineProfile::link_bw;  // a CPU has an infinite one
    if (!(x > 0.0 || (field.zero_allowed && x == 0.0)) || (std::isinf(x) && !link)) {
      throw InvalidArgument(field.name, format_number(x), field.zero_allowed ? "a finite number >= 0" : "a number > 0");
    }
  }
}

}  // namespace

json::Value to_value(const MachineProfile& profile) {
  json::Object members;
  members.emplace_back("name", profile.name);
  for (const ProfileField& field : kFields) members.emplace_back(field.name, profile.*field.member);
  return members;
}

MachineProfile profile_from_value(const json::Value& value) {
  const json::Value* name = value.find("name");
  if (name == nullptr || name->string() == nullptr) throw InvalidArgument("name", "no text", "the profile's name");
  MachineProfile profile;
  profile.name = *name->string();
  for (const ProfileField& field : kFields) {
    const json::Value* found = value.find(field.name);
    const double* x = found == nullptr ? nullptr : found->number();
    if (x == nullptr) throw InvalidArgument(field.name, "no number", "a number");
    profile.*field.member = *x;
  }
  require(profile);
  return profile;
}

std::string MachineProfile::to_json() const { return json::dump(to_value(*this)); }

MachineProfile MachineProfile::from_json(std::string_view text) {
  const auto value = json::parse(text);
  if (!value) throw InvalidArgument("profile", "text that is not JSON", "a JSON object");
  return profile_from_value(*value);
}

namespace policy {
namespace {

constexpr double kNoLink = std::numeric_limits<double>::infinity();

struct InForce {
  std::mutex mutex;
  std::shared_ptr<const MachineProfile> profile;  // null before the first plan
  DispatchPolicy policy;
  bool device_fixed = false;
  std::string device_failure;
};
InForce& state() {
  static InForce in_force;
  return in_force;
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string cpu_model() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (!line.starts_with("model name")) continue;
    const auto from = line.find_first_not_of(" \t", line.find(':') + 1);
    return from == std::string::npos ? "" : line.substr(from);
  }
  return "unknown";
}

std::string fact(const char* key) {
  for (const auto& [name, value] : build_info()) {
    if (name == key) return value;
  }
  return "";
}

std::optional<CalibrationRecord> stored_record(const Fingerprint& fingerprint) {
  const std::string path = record_path(fingerprint);
  if (path.empty()) return std::nullopt;
  std::ifstream file(path, std::ios::binary);
  if (!file) return std::nullopt;
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  return read_record(text, fingerprint);
}

// To a name of its own, then renamed: a reader sees a whole record or none.
void store(const CalibrationRecord& record) {
  const std::filesystem::path path = record_path(record.fingerprint);
  if (path.empty()) return;
  std::error_code error;  // an unwritable cache costs a measurement per process, nothing else
  std::filesystem::create_directories(path.parent_path(), error);
  if (error) return;
  const std::filesystem::path partial = path.string() + '.' + std::to_string(getpid());
  {
    std::ofstream file(partial, std::ios::binary);
    file << to_json(record) << '\n';
    if (!file.flush()) error = std::make_error_code(std::errc::io_error);
  }
  if (!error) std::filesystem::rename(partial, path, error);
  if (error) std::filesystem::remove(partial, error);
}

CalibrationRecord measured_record() {
  CalibrationRecord record;
  record.fingerprint = machine_fingerprint();
  record.profile = measure_cpu();
  return record;
}

// Of CPU and device together; the failure where the device has one.
CalibrationRecord measured_record(const DeviceFacts& facts, const MachineProfile& cpu, std::string& failure) {
  CalibrationRecord record;
  record.fingerprint = machine_fingerprint(facts);
  record.profile = cpu;
  failure.clear();
  try {
    record.measurements = measure_operations();
    record.policy = calibrated(DispatchPolicy{}, record.measurements);
  } catch (const ArrowError& error) {
    failure = error.what();
    record.measurements.clear();
    note_once("calibration", "failed", true,
              [&] { return "the device was not calibrated, defaults stand: " + failure; });
  }
  return record;
}

bool device_is_there() { return device_info().outcome == DeviceOutcome::available; }

}  // namespace

MachineProfile reference_profile() {
  return {"reference", 4.8e12, 34e12, 67e12, 55e9, 3e-6, 1e-5, 512.0, 4096.0, 256.0, 2e-5};
}

// All but rate_vec measured on two Zen 5 cores.
MachineProfile built_in_cpu_profile() {
  return {"built-in", 50e9, 40e9, 205e9, kNoLink, 0.0, 0.0, 250.0, 800.0, 256.0, 0.0};
}

DispatchPolicy in_force() {
  InForce& now = state();
  const std::lock_guard<std::mutex> lock(now.mutex);
  return now.policy;
}

std::shared_ptr<const MachineProfile> profile_in_force(Calibrate at_first) {
  InForce& now = state();
  const std::lock_guard<std::mutex> lock(now.mutex);
  if (now.profile == nullptr) {
    auto record = at_first == Calibrate::off ? std::nullopt : stored_record(machine_fingerprint());
    if (!record && at_first == Calibrate::measure) {
      record = measured_record();
      store(*record);
    }
    now.profile = std::make_shared<const MachineProfile>(record ? record->profile : built_in_cpu_profile());
    if (record) now.policy = record->policy;
  }
  return now.profile;
}

void set_profile(const MachineProfile& profile) {
  require(profile);
  InForce& now = state();
  const std::lock_guard<std::mutex> lock(now.mutex);
  now.profile = std::make_shared<const MachineProfile>(profile);
}

void fix_device_policy(Calibrate at_first) {
  InForce& now = state();
  {
    const std::lock_guard<std::mutex> lock(now.mutex);
    if (now.device_fixed) return;
    now.device_fixed = true;  // who comes meanwhile goes on with what is in force
  }
  if (at_first == Calibrate::off || !device_is_there()) return;
  const DeviceFacts& facts = *device_info().facts;
  auto record = stored_record(machine_fingerprint(facts));
  std::string failure;
  if (!record && at_first == Calibrate::measure) {
    record = measured_record(facts, *profile_in_force(at_first), failure);
    if (failure.empty()) store(*record);
  }
  const std::lock_guard<std::mutex> lock(now.mutex);
  if (record && failure.empty()) now.policy = record->policy;
  now.device_failure = failure;
}

std::string calibration_failure() {
  InForce& now = state();
  const std::lock_guard<std::mutex> lock(now.mutex);
  return now.device_failure;
}

MachineProfile calibrate() {
  const CalibrationRecord record = measured_record();
  store(record);
  set_profile(record.profile);
  if (!device::backend_is_there() || !device_is_there()) return record.profile;
  std::string failure;
  const CalibrationRecord both = measured_record(*device_info().facts, record.profile, failure);
  if (failure.empty()) store(both);
  InForce& now = state();
  const std::lock_guard<std::mutex> lock(now.mutex);
  now.device_fixed = true;
  now.device_failure = failure;
  now.policy = both.policy;
  return record.profile;
}

// ---- the record -----------------------------------------------------------------------------------------------------
std::string Fingerprint::digest() const {
  // FNV-1a, twice with different offsets: 128 bits that only have to tell files apart.
  std::uint64_t hash[2] = {0xcbf29ce484222325u, 0x84222325cbf29ce4u};
  const auto add = [&](const std::string& text) {
    for (std::uint64_t& h : hash) {
      for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
      h = (h ^ 0xffu) * 0x100000001b3u;  // fields do not run together
    }
  };
  for (const auto& [name, value] : fields) {
    add(name);
    add(value);
  }
  char text[33];
  std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(hash[0]),
                static_cast<unsigned long long>(hash[1]));
  return text;
}

namespace {

Fingerprint fingerprint_of(const DeviceFacts* facts) {
  const auto flag = [](const std::optional<bool>& value) { return value ? std::to_string(*value) : std::string("-"); };
  const auto of_device = [&](auto&& text) { return facts == nullptr ? std::string() : std::string(text(*facts)); };
  Fingerprint f;
  const auto add = [&](const char* name, auto&& text) { f.fields.emplace_back(name, of_device(text)); };
  f.fields.emplace_back("schema", std::to_string(kRecordSchema));
  add("device", [](const DeviceFacts& d) { return d.name; });
  add("compute_capability",
      [](const DeviceFacts& d) { return std::to_string(d.compute_major) + '.' + std::to_string(d.compute_minor); });
  add("multiprocessors", [](const DeviceFacts& d) { return std::to_string(d.multiprocessors); });
  add("threads_per_multiprocessor", [](const DeviceFacts& d) { return std::to_string(d.threads_per_multiprocessor); });
  add("shared_memory_per_block", [](const DeviceFacts& d) { return std::to_string(d.shared_bytes_per_block); });
  add("l2_bytes", [](const DeviceFacts& d) { return std::to_string(d.l2_bytes); });
  add("total_memory", [](const DeviceFacts& d) { return std::to_string(d.total_bytes); });
  add("ecc", [&](const DeviceFacts& d) { return flag(d.ecc); });
  add("integrated", [&](const DeviceFacts& d) { return flag(d.integrated); });
  add("mig", [&](const DeviceFacts& d) { return flag(d.mig); });
  add("driver",
      [](const DeviceFacts& d) { return std::to_string(d.driver_version) + ' ' + std::to_string(d.runtime_version); });
  f.fields.emplace_back("cpu", cpu_model());
  f.fields.emplace_back("threads", std::to_string(get_num_threads()));
  f.fields.emplace_back("instruction_set", linalg::instruction_set());
  f.fields.emplace_back("blas", fact("blas") + ' ' + fact("blas_kernels"));
  f.fields.emplace_back("library", version());
  return f;
}

}  // namespace

Fingerprint machine_fingerprint() { return fingerprint_of(nullptr); }
Fingerprint machine_fingerprint(const DeviceFacts& facts) { return fingerprint_of(&facts); }

std::string record_path(const Fingerprint& fingerprint) {
  std::filesystem::path cache = environment("XDG_CACHE_HOME");
  if (!cache.is_absolute()) {  // unset, or to be ignored by the base directory specification
    cache = environment("HOME");
    if (!cache.is_absolute()) return "";
    cache /= ".cache";
  }
  return cache / "arrowschur_native" / "policy" / ('v' + std::to_string(kRecordSchema)) /
         (fingerprint.digest() + ".json");
}

std::string to_json(const CalibrationRecord& record) {
  json::Object fingerprint;
  for (const auto& [name, value] : record.fingerprint.fields) fingerprint.emplace_back(name, value);
  json::Array measurements;
  for (const Measurement& m : record.measurements) {
    json::Array sizes;
    for (const Size size : m.sizes) sizes.emplace_back(static_cast<double>(size));
    measurements.emplace_back(json::Object{{"operation", m.operation},
                                           {"sizes", std::move(sizes)},
                                           {"cpu_seconds", m.cpu_seconds},
                                           {"gpu_seconds", m.gpu_seconds}});
  }
  return json::dump(json::Object{{"schema", static_cast<double>(kRecordSchema)},
                                 {"fingerprint", std::move(fingerprint)},
                                 {"policy", to_value(record.policy)},
                                 {"profile", to_value(record.profile)},
                                 {"measurements", std::move(measurements)}});
}

std::optional<CalibrationRecord> read_record(std::string_view text, const Fingerprint& expected) {
  const auto value = json::parse(text);
  if (!value) return std::nullopt;
  const json::Value* schema = value->find("schema");
  const json::Value* fields = value->find("fingerprint");
  const json::Value* record_policy = value->find("policy");
  const json::Value* profile = value->find("profile");
  const json::Value* measurements = value->find("measurements");
  if (schema == nullptr || schema->number() == nullptr || *schema->number() != kRecordSchema) return std::nullopt;
  if (fields == nullptr || fields->object() == nullptr || record_policy == nullptr || profile == nullptr)
    return std::nullopt;
  if (measurements == nullptr || measurements->array() == nullptr) return std::nullopt;

  CalibrationRecord record;
  for (const auto& [name, field] : *fields->object()) {
    if (field.string() == nullptr) return std::nullopt;
    record.fingerprint.fields.emplace_back(name, *field.string());
  }
  if (record.fingerprint != expected) return std::nullopt;
  try {
    record.policy = policy_from_value(*record_policy);
    record.profile = profile_from_value(*profile);
  } catch (const InvalidArgument&) {
    return std::nullopt;  // damaged: as if there were none
  }
  for (const json::Value& item : *measurements->array()) {
    const json::Value *operation = item.find("operation"), *sizes = item.find("sizes");
    const json::Value *cpu = item.find("cpu_seconds"), *gpu = item.find("gpu_seconds");
    if (operation == nullptr || operation->string() == nullptr || sizes == nullptr || sizes->array() == nullptr ||
        cpu == nullptr || cpu->number() == nullptr || gpu == nullptr || gpu->number() == nullptr) {
      return std::nullopt;
    }
    Measurement m{*operation->string(), {}, *cpu->number(), *gpu->number()};
    for (const json::Value& size : *sizes->array()) {
      if (size.number() == nullptr || !(*size.number() >= 0.0 && *size.number() < 0x1p63)) return std::nullopt;
      m.sizes.push_back(static_cast<Size>(*size.number()));
    }
    record.measurements.push_back(std::move(m));
  }
  return record;
}

}  // namespace policy
}  // namespace arrowschur
