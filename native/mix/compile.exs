defmodule Mix.Tasks.Compile.EmbeddedEpmdNative do
  @moduledoc false
  # Brings the NIF library. mix.exs loads it from here since a task in lib/ would not exist yet when it has to run. Every
  # `mix` command of a project that depends on this one compiles this file, so all else waits until it is needed.

  use Mix.Task.Compiler

  alias EmbeddedEpmd.Build.Library

  @compile {:no_warn_undefined, Library}

  @impl Mix.Task.Compiler
  def run(_args) do
    Code.require_file("library.exs", __DIR__)
    Library.bring()
  end

  @impl Mix.Task.Compiler
  def clean do
    Code.require_file("library.exs", __DIR__)
    Library.remove()
  end
end
