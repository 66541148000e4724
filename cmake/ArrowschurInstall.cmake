# Install rules. The layout is the same in a CMake prefix and inside a wheel, where the package folder is the prefix:
#
#   include/arrowschur/*.hpp    include/arrowschur.pxd
#   lib/libarrowschur.so        lib/libarrowschur_openblas.so        lib/cmake/arrowschur/*.cmake
#   lib/libarrowschur_cuda.so, where it was built
include(CMakePackageConfigHelpers)

set(config_dir "${CMAKE_INSTALL_LIBDIR}/cmake/arrowschur")

install(
  DIRECTORY "${PROJECT_SOURCE_DIR}/cpp/include/arrowschur"
  DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
  FILES_MATCHING
  PATTERN "*.hpp"
)
install(FILES "${PROJECT_SOURCE_DIR}/cpp/include/arrowschur.pxd" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")

install(
  TARGETS arrowschur
  EXPORT arrowschur_shared
  LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}"
  RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}"
)
install(
  EXPORT arrowschur_shared
  NAMESPACE arrowschur::
  FILE arrowschur-shared-targets.cmake
  DESTINATION "${config_dir}"
)

if(ARROWSCHUR_STATIC)
  install(TARGETS arrowschur_static EXPORT arrowschur_static ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
  install(
    EXPORT arrowschur_static
    NAMESPACE arrowschur::
    FILE arrowschur-static-targets.cmake
    DESTINATION "${config_dir}"
  )
endif()

if(ARROWSCHUR_BLAS STREQUAL "bundled")
  install(PROGRAMS "${ARROWSCHUR_OPENBLAS_COPY}" DESTINATION "${CMAKE_INSTALL_LIBDIR}")
  # Its licence goes where it goes.
  if(ARROWSCHUR_OPENBLAS_LICENSES)
    if(in_wheel)
      set(license_dir "licenses/openblas")
    else()
      set(license_dir "${CMAKE_INSTALL_DATADIR}/arrowschur/licenses/openblas")
    endif()
    install(FILES ${ARROWSCHUR_OPENBLAS_LICENSES} DESTINATION "${license_dir}")
  endif()
endif()

configure_package_config_file(
  "${CMAKE_CURRENT_LIST_DIR}/arrowschurConfig.cmake.in"
  "${PROJECT_BINARY_DIR}/arrowschurConfig.cmake"
  INSTALL_DESTINATION "${config_dir}"
)
# Before 1.0 a minor release may change the API.
write_basic_package_version_file("${PROJECT_BINARY_DIR}/arrowschurConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(
  FILES "${PROJECT_BINARY_DIR}/arrowschurConfig.cmake" "${PROJECT_BINARY_DIR}/arrowschurConfigVersion.cmake"
  DESTINATION "${config_dir}"
)

if(NOT in_wheel)
  install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DATADIR}/arrowschur/licenses")
endif()
