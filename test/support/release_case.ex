defmodule Support.ReleaseCase do
  @moduledoc "Each test gets a release of its own, `context.release`: its own name, port and processes."

  use ExUnit.CaseTemplate

  import Support.Vm

  alias Support.Release

  setup context do
    folder = Release.assemble()
    node = unique("release")
    tmp = Path.join(folder, node)
    File.mkdir_p!(tmp)

    release = %{
      folder: folder,
      tmp: tmp,
      node: node,
      port: free_port(),
      mode: context[:mode] || "embedded",
      variables: context[:variables] || []
    }

    on_exit(fn -> Release.clean_up(release) end)
    %{release: release}
  end
end
