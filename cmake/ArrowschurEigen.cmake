# Target arrowschur_eigen: the headers of Eigen >= 3.4, from CMAKE_PREFIX_PATH, the system, or the cmeel-eigen wheel of the
# Python interpreter. Used inside the core only; no public header includes it.
include(ArrowschurPythonPackage)

find_package(Eigen3 3.4 CONFIG QUIET)
if(NOT Eigen3_FOUND)
  arrowschur_python_package(cmeel package)
  if(package)
    find_package(Eigen3 3.4 CONFIG QUIET HINTS "${package}/../cmeel.prefix")
  endif()
endif()
if(NOT Eigen3_FOUND)
  message(
    FATAL_ERROR
    "Eigen >= 3.4 was not found. One of\n"
    "  pip install cmeel-eigen                      (and -DPython_EXECUTABLE=<that python>)\n"
    "  the distribution's package (libeigen3-dev, eigen3-devel)\n"
    "  -DEigen3_ROOT=<prefix>"
  )
endif()

add_library(arrowschur_eigen INTERFACE)
get_target_property(eigen_include Eigen3::Eigen INTERFACE_INCLUDE_DIRECTORIES)
if(in_wheel)
  # pip's build environment has another path each time, and none without isolation: headers of our own keep a repeated
  # `pip install .` incremental.
  set(copy "${PROJECT_BINARY_DIR}/eigen-${Eigen3_VERSION}")
  if(NOT EXISTS "${copy}/complete")
    file(COPY "${eigen_include}/Eigen" DESTINATION "${copy}")
    file(TOUCH "${copy}/complete")
  endif()
  set(eigen_include "${copy}")
endif()
target_include_directories(arrowschur_eigen SYSTEM INTERFACE ${eigen_include})
# The library has its own threads.
target_compile_definitions(arrowschur_eigen INTERFACE EIGEN_DONT_PARALLELIZE)
