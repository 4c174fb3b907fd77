defmodule Support.InstallCase do
  @moduledoc """
  For tests of the tasks install and doctor. Each gets an umbrella of its own, `context.root`, without `releases:`.
  """

  use ExUnit.CaseTemplate

  alias Support.Umbrella

  using do
    quote do
      import Support.Umbrella, except: [new: 0]

      @vm_args "rel/vm.args.eex"
      @remote "rel/remote.vm.args.eex"
      @both_flags ["-start_epmd false", "-epmd_module Elixir.EmbeddedEpmd.Discovery"]
      # One after the other in one VM, of which the first must succeed.
      @install_and_doctor ~w(do embedded_epmd.install + embedded_epmd.doctor)
      @only "[prod: [applications: [web: :permanent]]]"
    end
  end

  setup do
    root = Umbrella.new()
    on_exit(fn -> Umbrella.clean_up(root) end)
    %{root: root}
  end
end
