# Fails when an object file of an instruction set defines a weak symbol (one that the linker may merge with another
# object file's) outside the namespace of that instruction set.
set(checked 0)
foreach(object IN LISTS OBJECTS)
  if(NOT object MATCHES "kernels_(avx2|avx512)")
    continue()
  endif()
  math(EXPR checked "${checked} + 1")
  execute_process(
    COMMAND "${NM}" --defined-only --demangle "${object}"
    OUTPUT_VARIABLE symbols
    COMMAND_ERROR_IS_FATAL ANY
  )
  string(REGEX MATCHALL "[^\n]* [WVu] [^\n]*" weak "${symbols}")
  list(FILTER weak EXCLUDE REGEX "isa_(avx2|avx512)::")
  if(weak)
    list(JOIN weak "\n  " weak)
    message(FATAL_ERROR "${object} shares\n  ${weak}")
  endif()
endforeach()
if(NOT checked EQUAL 4)
  message(
    FATAL_ERROR
    "expected two object files (linalg, dictionary) of two instruction sets each, found ${checked} in: ${OBJECTS}"
  )
endif()
