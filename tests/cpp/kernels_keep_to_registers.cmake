# Compiles the kernels as the backend's build does, and reads the assembler's report: fails when a kernel spills registers
# or has an array in local memory, and when a file has no kernel.
#
#   NVCC, FLAGS (of every kernel file), SOURCES, ARCHITECTURES (numbers), FOLDER for what is made
set(checked 0)
foreach(architecture IN LISTS ARCHITECTURES)
  foreach(source IN LISTS SOURCES)
    execute_process(
      COMMAND
        "${NVCC}" ${FLAGS} -arch=sm_${architecture} -Xptxas -v -cubin -o "${FOLDER}/kernels_${architecture}.cubin"
        "${source}"
      ERROR_VARIABLE report
      OUTPUT_VARIABLE output
      COMMAND_ERROR_IS_FATAL ANY
    )
    string(
      REGEX MATCHALL "Function properties for [^\n]+\n[^\n]+stack frame[^\n]+\n[^\n]*Used [0-9]+ registers"
      kernels
      "${report}${output}"
    )
    if(NOT kernels)
      message(FATAL_ERROR "no kernel in the report on ${source}:\n${report}${output}")
    endif()
    foreach(kernel IN LISTS kernels)
      math(EXPR checked "${checked} + 1")
      if(NOT kernel MATCHES " 0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads")
        message(SEND_ERROR "sm_${architecture}: ${kernel}")
      endif()
    endforeach()
  endforeach()
endforeach()
message(STATUS "${checked} kernels")
