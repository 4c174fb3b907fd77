defmodule Mix.Tasks.Compile.EmbeddedEpmdAppup do
  @moduledoc false
  # Writes what a release upgrade from or to any other version of this library does: the VM restarts, since it keeps the
  # native library that it has loaded.

  use Mix.Task.Compiler

  @impl Mix.Task.Compiler
  def run(_args) do
    any = [{".*", [:restart_emulator]}]
    instructions = {String.to_charlist(Mix.Project.config()[:version]), any, any}
    text = IO.iodata_to_binary(:io_lib.format("~tp.~n", [instructions]))

    if File.read(path()) == {:ok, text} do
      {:noop, []}
    else
      File.mkdir_p!(Path.dirname(path()))
      File.write!(path(), text)
      {:ok, []}
    end
  end

  @impl Mix.Task.Compiler
  def clean, do: _ = File.rm(path())

  defp path, do: Path.join([Mix.Project.app_path(), "ebin", "embedded_epmd.appup"])
end
