defmodule EmbeddedEpmd.VmArgsTest do
  use ExUnit.Case, async: true

  alias EmbeddedEpmd.VmArgs

  @module "Elixir.EmbeddedEpmd.Discovery"

  test "what stands behind # does not count" do
    assert VmArgs.flags("+Q 65536\n# -start_epmd true\n  ## -x\n-start_epmd  false # -epmd_module other\n") ==
             [{"-start_epmd", "false"}]
  end

  test "of -start_epmd the last counts, of the others the first" do
    flags = VmArgs.flags("-start_epmd true -epmd_module a\n-epmd_module b -start_epmd false")
    assert VmArgs.value(flags, "-start_epmd") == "false"
    assert VmArgs.value(flags, "-epmd_module") == "a"
    assert VmArgs.value(flags, "-erl_epmd_port") == nil
  end

  test "what is missing is what does not count" do
    wanted = VmArgs.required(:vm_args, false)
    assert VmArgs.missing([], wanted) == wanted
    assert VmArgs.missing(VmArgs.flags("-start_epmd false -epmd_module #{@module}"), wanted) == []
    assert VmArgs.missing(VmArgs.flags("-start_epmd false -start_epmd true"), wanted) == wanted
    # With the kernel parameter no flag is needed for the module.
    assert VmArgs.required(:vm_args, true) == [{"-start_epmd", "false"}]
    assert VmArgs.required(:remote_vm_args, false) == [{"-start_epmd", "false"}]
  end

  for {line, kind, parameter?, sentence} <- [
        {"-epmd_module Elixir.Other", :vm_args, false, "has -epmd_module Elixir.Other, another discovery module"},
        {"-epmd_module Elixir.Other -epmd_module #{@module}", :vm_args, false,
         "another discovery module; of two, OTP takes the first"},
        {"-kernel epmd_module 'Elixir.Other'", :vm_args, false, "has -kernel epmd_module Elixir.Other"},
        {"-start_epmd true", :vm_args, false, "has -start_epmd true, which starts OTP's daemon"},
        {"-start_epmd false -start_epmd true", :remote_vm_args, false, "has -start_epmd true"},
        {"-erl_epmd_port 6789", :vm_args, false, "has -erl_epmd_port 6789: with a fixed port a node needs no EPMD"},
        {"-kernel erl_epmd_node_listen_port 6789", :vm_args, false, "has erl_epmd_node_listen_port 6789: with a fixed"},
        {"-epmd_module #{@module}", :remote_vm_args, false, "not for short-lived clients"},
        {"-epmd_module #{@module}", :vm_args, true, "beside the kernel parameter epmd_module: with both"},
        {"-epmd_module #{@module} -kernel epmd_module '#{@module}'", :vm_args, false, "beside the kernel parameter"}
      ] do
    test "#{line} in #{kind}, #{if parameter?, do: "with", else: "without"} a parameter, contradicts" do
      sentence = VmArgs.contradiction(VmArgs.flags(unquote(line)), unquote(kind), unquote(parameter?))
      assert sentence =~ unquote(sentence)
    end
  end

  test "what counts in the end does not contradict" do
    flags = VmArgs.flags("-start_epmd true -epmd_module #{@module} -epmd_module other -start_epmd false")
    assert VmArgs.contradiction(flags, :vm_args, false) == nil
    assert VmArgs.contradiction(VmArgs.flags("-kernel epmd_module '#{@module}'"), :vm_args, false) == nil
  end
end
