defmodule EmbeddedEpmd.InstallTest do
  # The task works in the current folder, which is one for the whole VM.
  use ExUnit.Case, async: false

  alias Mix.Tasks.EmbeddedEpmd.Install

  @vm_args "rel/vm.args.eex"
  @remote "rel/remote.vm.args.eex"

  setup do
    folder = Path.join(System.tmp_dir!(), "embedded_epmd_install_#{System.unique_integer([:positive])}_#{System.pid()}")
    File.mkdir_p!(folder)
    shell = Mix.shell()
    Mix.shell(Mix.Shell.Process)
    back = File.cwd!()
    File.cd!(folder)

    on_exit(fn ->
      Mix.shell(shell)
      File.cd!(back)
      File.rm_rf!(folder)
    end)
  end

  test "writes both files, which hold nothing but the flags, and has nothing to do again" do
    Install.run([])
    assert flags(@vm_args) == ["-start_epmd false", "-epmd_module Elixir.EmbeddedEpmd.Discovery"]
    assert flags(@remote) == ["-start_epmd false"]
    assert output() =~ "children = [EmbeddedEpmd]"

    written = {File.read!(@vm_args), File.read!(@remote)}
    Install.run([])
    assert output() =~ "#{@vm_args} has all it needs"
    assert {File.read!(@vm_args), File.read!(@remote)} == written
  end

  test "shows what a file would get, asks, and keeps what stands there" do
    File.mkdir_p!("rel")
    File.write!(@vm_args, "## Number of ports\n+Q 65536\n-start_epmd false\n## -epmd_module Elixir.Other\n")
    send(self(), {:mix_shell_input, :yes?, false})
    Install.run([])
    assert output() =~ "+ -epmd_module Elixir.EmbeddedEpmd.Discovery"
    assert flags(@vm_args) == ["+Q 65536", "-start_epmd false"]

    send(self(), {:mix_shell_input, :yes?, true})
    Install.run([])
    assert flags(@vm_args) == ["+Q 65536", "-start_epmd false", "-epmd_module Elixir.EmbeddedEpmd.Discovery"]
    assert File.read!(@vm_args) =~ "## -epmd_module Elixir.Other"
  end

  test "--yes asks nothing" do
    File.mkdir_p!("rel")
    File.write!(@vm_args, "+Q 65536")
    Install.run(["--yes"])
    refute_received {:mix_shell, :yes?, _}
    assert flags(@vm_args) == ["+Q 65536", "-start_epmd false", "-epmd_module Elixir.EmbeddedEpmd.Discovery"]
  end

  for {what, file, line, sentence} <- [
        {"another discovery module", @vm_args, "-epmd_module Elixir.Other", "another discovery module"},
        {"a daemon that is wanted", @vm_args, "-start_epmd true", "starts OTP's daemon"},
        {"a fixed port", @vm_args, "-erl_epmd_port 6789", "needs no EPMD"},
        {"the module in the file of the clients", @remote, "-epmd_module Elixir.EmbeddedEpmd.Discovery",
         "not for short-lived clients"}
      ] do
    test "#{what} is a contradiction, and nothing is changed" do
      File.mkdir_p!("rel")
      File.write!(unquote(file), unquote(line) <> "\n")
      error = assert_raise Mix.Error, fn -> Install.run(["--yes"]) end
      assert error.message =~ unquote(file)
      assert error.message =~ unquote(sentence)
      assert File.ls!("rel") == [Path.basename(unquote(file))]
      assert File.read!(unquote(file)) == unquote(line) <> "\n"
    end
  end

  defp flags(path) do
    for line <- path |> File.read!() |> String.split("\n", trim: true), not String.starts_with?(line, "#"), do: line
  end

  defp output(text \\ "") do
    receive do
      {:mix_shell, _, [line]} -> output(text <> line <> "\n")
    after
      0 -> text
    end
  end
end
