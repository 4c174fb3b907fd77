defmodule Support.Folder do
  @moduledoc """
  Folders for tests.
  """

  @doc "Creates a folder with this word in its name, which is deleted at the end of the test; returns its path."
  def new(name) do
    folder = Path.join(System.tmp_dir!(), "embedded_epmd_#{name}_#{System.pid()}_#{System.unique_integer([:positive])}")
    File.mkdir_p!(folder)
    ExUnit.Callbacks.on_exit(fn -> File.rm_rf!(folder) end)
    folder
  end
end
