# arrowschur_python_package(<import name> <variable>): the folder of a package of the Python interpreter, or "".
# The package is not imported: importing scipy_openblas32 loads the library.
function(arrowschur_python_package name variable)
  find_package(Python 3.10 QUIET COMPONENTS Interpreter)
  set(folder "")
  if(Python_Interpreter_FOUND)
    execute_process(
      COMMAND
        "${Python_EXECUTABLE}" -c
        "import importlib.util as u; s = u.find_spec('${name}'); print(list(s.submodule_search_locations)[0] if s else '')"
      OUTPUT_VARIABLE folder
      OUTPUT_STRIP_TRAILING_WHITESPACE
      COMMAND_ERROR_IS_FATAL ANY
    )
  endif()
  set(Python_EXECUTABLE "${Python_EXECUTABLE}" PARENT_SCOPE)
  set(${variable} "${folder}" PARENT_SCOPE)
endfunction()
