# Target arrowschur_flags: how everything of ours is compiled. Private to this build, never exported.
add_library(arrowschur_flags INTERFACE)
target_compile_features(arrowschur_flags INTERFACE cxx_std_20)

if(NOT CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
  message(FATAL_ERROR "GCC >= 11 or Clang >= 14 is needed; found ${CMAKE_CXX_COMPILER_ID}.")
endif()

target_compile_options(
  arrowschur_flags
  INTERFACE
    -ffp-contract=off # the same bits from every kernel: fused multiply-adds are written where they are meant
    -fno-math-errno # lets sqrt be one instruction
    -Wall
    -Wextra
    -Wpedantic
    -Wshadow
    -Wconversion
    # GCC takes the inactive alternatives of a std::variant that is moved for uninitialised (GCC bug 80635).
    $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>
    $<$<BOOL:${ARROWSCHUR_DEVELOPER}>:-Werror>
)

# ---- sanitizers ----
if(ARROWSCHUR_SANITIZE)
  string(REPLACE "," ";" sanitizers "${ARROWSCHUR_SANITIZE}")
  foreach(sanitizer IN LISTS sanitizers)
    if(NOT sanitizer MATCHES "^(address|undefined|thread)$")
      message(FATAL_ERROR "ARROWSCHUR_SANITIZE: unknown sanitizer '${sanitizer}'; use address, undefined, thread.")
    endif()
  endforeach()
  if("thread" IN_LIST sanitizers AND "address" IN_LIST sanitizers)
    message(FATAL_ERROR "ARROWSCHUR_SANITIZE: thread and address cannot be combined.")
  endif()
  if("thread" IN_LIST sanitizers AND ARROWSCHUR_COVERAGE)
    message(FATAL_ERROR "ARROWSCHUR_SANITIZE=thread and ARROWSCHUR_COVERAGE cannot be combined.")
  endif()
  if(ARROWSCHUR_PYTHON)
    message(FATAL_ERROR "ARROWSCHUR_SANITIZE is for the C++ tests: an interpreter without the runtime cannot load it.")
  endif()
  set(flags -fsanitize=${ARROWSCHUR_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  if("address" IN_LIST sanitizers AND "undefined" IN_LIST sanitizers)
    # The address sanitizer stops there too; a sixth of the time to compile.
    list(APPEND flags -fno-sanitize=null,object-size)
  endif()
  target_compile_options(arrowschur_flags INTERFACE ${flags})
  target_link_options(arrowschur_flags INTERFACE ${flags})
endif()

# ---- coverage ----
if(ARROWSCHUR_COVERAGE)
  # Plain counters: two threads may lose a count between them, but atomic ones make the tests ten times slower.
  target_compile_options(arrowschur_flags INTERFACE --coverage -fprofile-update=single)
  target_link_options(arrowschur_flags INTERFACE --coverage)
endif()

# ---- instruction sets of the kernels (cpp/src/linalg/kernels_*.cpp) ----
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|amd64|AMD64)$")
  set(ARROWSCHUR_X86 ON)
  set(ARROWSCHUR_INSTRUCTION_SETS "baseline, avx2, avx512")
else()
  set(ARROWSCHUR_X86 OFF)
  set(ARROWSCHUR_INSTRUCTION_SETS "baseline")
endif()
