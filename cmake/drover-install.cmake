# Headers, and a package that find_package(drover) finds. Nothing in it depends on the machine's architecture.
include(CMakePackageConfigHelpers)

option(DROVER_INSTALL "Install drover with the project" ${PROJECT_IS_TOP_LEVEL})
if(NOT DROVER_INSTALL)
  return()
endif()

set(drover_package_dir ${CMAKE_INSTALL_DATADIR}/cmake/drover)
set(drover_generated_dir ${PROJECT_BINARY_DIR}/package)
configure_package_config_file(
  ${PROJECT_SOURCE_DIR}/cmake/drover-config.cmake.in ${drover_generated_dir}/drover-config.cmake
  INSTALL_DESTINATION ${drover_package_dir} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(
  ${drover_generated_dir}/drover-config-version.cmake COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)

install(TARGETS drover EXPORT drover-targets)
install(EXPORT drover-targets NAMESPACE drover:: DESTINATION ${drover_package_dir})
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/drover DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.hpp" PATTERN "*.ipp")
install(FILES ${drover_generated_dir}/drover-config.cmake ${drover_generated_dir}/drover-config-version.cmake
              ${PROJECT_SOURCE_DIR}/cmake/drover-asio.cmake DESTINATION ${drover_package_dir})
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/licenses/drover)
