# Target arrowschur_blas: the implementation of cpp/src/linalg/blas.hpp that was asked for, and what it links.
#
#   ARROWSCHUR_BLAS=bundled  libscipy_openblas.so of the scipy-openblas32 wheel, copied beside our library under the name
#                            libarrowschur_openblas.so and opened at run time. Found through the Python interpreter, or
#                            named with -DARROWSCHUR_OPENBLAS_LIBRARY=<path>.
#   ARROWSCHUR_BLAS=system   find_package(LAPACK); -DBLA_VENDOR chooses, as usual.
#   ARROWSCHUR_BLAS=eigen    no BLAS library: Eigen (ArrowschurEigen.cmake).
#
# Nothing is downloaded.
include(ArrowschurPythonPackage)

# One name for the build tree and the installed package: the loader in blas_bundled.cpp looks for it.
set(ARROWSCHUR_OPENBLAS_NAME "libarrowschur_openblas.so")

add_library(arrowschur_blas INTERFACE)

if(ARROWSCHUR_BLAS STREQUAL "bundled")
  set(ARROWSCHUR_BLAS_SOURCE linalg/blas_bundled.cpp)
  set(ARROWSCHUR_OPENBLAS_LIBRARY "" CACHE FILEPATH "libscipy_openblas.so to bundle (default: from scipy-openblas32)")
  set(library "${ARROWSCHUR_OPENBLAS_LIBRARY}")
  if(NOT library)
    arrowschur_python_package(scipy_openblas32 package)
    if(package)
      set(library "${package}/lib/libscipy_openblas.so")
      file(GLOB ARROWSCHUR_OPENBLAS_LICENSES "${package}/../scipy_openblas32-*.dist-info/licenses/*")
    endif()
  endif()
  if(NOT EXISTS "${library}")
    message(
      FATAL_ERROR
      "No OpenBLAS to bundle: '${Python_EXECUTABLE}' has no package scipy-openblas32. One of\n"
      "  pip install scipy-openblas32                 (and -DPython_EXECUTABLE=<that python>)\n"
      "  -DARROWSCHUR_OPENBLAS_LIBRARY=<path>/libscipy_openblas.so\n"
      "  -DARROWSCHUR_BLAS=system                     (any BLAS and LAPACK that CMake finds)\n"
      "  -DARROWSCHUR_BLAS=eigen                      (Eigen only, slower)"
    )
  endif()
  file(REAL_PATH "${library}" library)
  # Beside our library in the build tree, so that it is found there in the same way as after installation.
  set(ARROWSCHUR_OPENBLAS_COPY "${PROJECT_BINARY_DIR}/lib/${ARROWSCHUR_OPENBLAS_NAME}")
  configure_file("${library}" "${ARROWSCHUR_OPENBLAS_COPY}" COPYONLY)
  set(ARROWSCHUR_BLAS_FOUND "${library}")
elseif(ARROWSCHUR_BLAS STREQUAL "system")
  set(ARROWSCHUR_BLAS_SOURCE linalg/blas_system.cpp)
  set(BLA_SIZEOF_INTEGER 4)
  find_package(LAPACK REQUIRED)
  target_link_libraries(arrowschur_blas INTERFACE LAPACK::LAPACK BLAS::BLAS)
  set(ARROWSCHUR_BLAS_FOUND "${BLAS_LIBRARIES}")
elseif(ARROWSCHUR_BLAS STREQUAL "eigen")
  set(ARROWSCHUR_BLAS_SOURCE linalg/blas_eigen.cpp)
  set(ARROWSCHUR_BLAS_FOUND "Eigen ${Eigen3_VERSION}")
else()
  message(FATAL_ERROR "ARROWSCHUR_BLAS is '${ARROWSCHUR_BLAS}'; use bundled, system or eigen.")
endif()
