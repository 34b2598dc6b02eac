# The libraries of examples that few programs that use drover need: without them these examples are left out.
# Sets drover_cli_missing and drover_server_missing to the packages of Debian and Ubuntu that are not installed: CLI11 for
# the examples with a command line, and all libraries of examples/server.cpp.
find_path(HTTP_PARSER_INCLUDE_DIR http_parser.h)
find_library(HTTP_PARSER_LIBRARY http_parser)
find_path(GD_INCLUDE_DIR gd.h)
find_library(GD_LIBRARY gd)
find_package(CLI11 QUIET)
mark_as_advanced(HTTP_PARSER_INCLUDE_DIR HTTP_PARSER_LIBRARY GD_INCLUDE_DIR GD_LIBRARY CLI11_DIR)

set(drover_cli_missing "")
if(NOT CLI11_FOUND)
  set(drover_cli_missing " libcli11-dev")
endif()
set(drover_server_missing "")
if(NOT HTTP_PARSER_INCLUDE_DIR OR NOT HTTP_PARSER_LIBRARY)
  string(APPEND drover_server_missing " libhttp-parser-dev")
endif()
if(NOT GD_INCLUDE_DIR OR NOT GD_LIBRARY)
  string(APPEND drover_server_missing " libgd-dev")
endif()
string(APPEND drover_server_missing "${drover_cli_missing}")
