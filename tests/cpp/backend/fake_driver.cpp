// A driver, and libraries, for tests of the probe on hosts that have none: the little that is called before a device is
// counted. Mapped under the names of the real ones. ARROWSCHUR_FAKE_DRIVER_INIT is what cuInit returns,
// ARROWSCHUR_FAKE_DRIVER_VERSION the driver's version, ARROWSCHUR_FAKE_LIBRARY_MAJOR the version of the libraries.
#include <cstdlib>

namespace {

int number(const char* name, int otherwise) {
  const char* const value = std::getenv(name);
  return value == nullptr ? otherwise : std::atoi(value);
}

}  // namespace

extern "C" {

int cuInit(unsigned) { return number("ARROWSCHUR_FAKE_DRIVER_INIT", 0); }

int cuDriverGetVersion(int* version) {
  *version = number("ARROWSCHUR_FAKE_DRIVER_VERSION", ARROWSCHUR_TEST_CUDA_MAJOR * 1000);
  return 0;
}

int cublasGetProperty(int, int* value) {
  *value = number("ARROWSCHUR_FAKE_LIBRARY_MAJOR", ARROWSCHUR_TEST_CUDA_MAJOR);
  return 0;
}

int cusolverGetProperty(int, int* value) {
  *value = ARROWSCHUR_TEST_CUDA_MAJOR - 1;
  return 0;
}

}  // extern "C"
