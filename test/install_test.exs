defmodule EmbeddedEpmd.InstallTest do
  # The tasks install and doctor: what they find in the files of a project, and write into them.
  use Support.InstallCase, async: true

  alias EmbeddedEpmd.Doctor.Facts

  describe "the kernel parameter" do
    test "takes the place of the flag where OTP reads it", %{root: root} do
      releases(root, @only)
      write(root, "config/config.exs", "import Config\nconfig :kernel, epmd_module: EmbeddedEpmd.Discovery\n")
      {installed, _} = mix(root, ["embedded_epmd.install"])
      {examined, status} = mix(root, ["embedded_epmd.doctor"])

      if Facts.parameter_read?() do
        assert flags(root, @vm_args) == ["-start_epmd false"]
        assert status == 0
        assert examined =~ "ok       config/config.exs names EmbeddedEpmd.Discovery as the kernel parameter epmd_module"
      else
        assert installed =~ "config/config.exs has `config :kernel, epmd_module:`, which OTP reads from 27.2 on"
        assert {status, File.exists?(Path.join(root, "rel"))} == {1, false}
        assert examined =~ "PROBLEM  config/config.exs has `config :kernel, epmd_module:`, which OTP reads from 27.2 on"
      end
    end

    test "beside the flag is a contradiction, also where it stands for production only", %{root: root} do
      releases(root, @only)
      write(root, @vm_args, Enum.join(@both_flags, "\n"))

      write(root, "config/config.exs", """
      import Config
      if config_env() == :prod, do: config(:kernel, epmd_module: EmbeddedEpmd.Discovery)
      """)

      assert {text, 1} = mix(root, ["embedded_epmd.install"])

      assert text =~
               "#{@vm_args} has -epmd_module Elixir.EmbeddedEpmd.Discovery beside the kernel parameter epmd_module"

      assert {text, 1} = mix(root, ["embedded_epmd.doctor"])
      assert text =~ "PROBLEM  #{@vm_args} has -epmd_module Elixir.EmbeddedEpmd.Discovery beside the kernel parameter"
    end

    test "of releases only is seen in runtime.exs, which is read too late for it without a reboot", %{root: root} do
      releases(root, @only)

      write(root, "config/runtime.exs", """
      import Config
      if System.get_env("RELEASE_MODE"), do: config(:kernel, epmd_module: EmbeddedEpmd.Discovery)
      """)

      assert {text, 1} = mix(root, ["embedded_epmd.install"])
      assert text =~ "config/runtime.exs has `config :kernel, epmd_module:`, "
      assert text =~ if(Facts.parameter_read?(), do: "and is read when the node has been registered", else: "27.2")
    end

    test "is seen in a runtime.exs that can be read when the release runs only", %{root: root} do
      releases(root, @only)

      write(root, "config/runtime.exs", """
      import Config
      config :web, secret: System.fetch_env!("NOT_SET_HERE")
      config :kernel, epmd_module: Other
      """)

      assert {text, 1} = mix(root, ["embedded_epmd.install"])
      assert text =~ "config/runtime.exs has `config :kernel, epmd_module: Other`, another discovery module"
    end
  end

  describe "a file that is there" do
    setup %{root: root} do
      releases(root, @only)
    end

    test "is shown as it would change, and kept as it is without consent", %{root: root} do
      write(root, @vm_args, "## Number of ports\n+Q 65536\n-start_epmd false\n## -epmd_module Elixir.Other\n")
      assert {text, 0} = mix(root, ["embedded_epmd.install"], "n\\n")
      assert text =~ "+ -epmd_module Elixir.EmbeddedEpmd.Discovery"
      assert flags(root, @vm_args) == ["+Q 65536", "-start_epmd false"]

      assert {_, 0} = mix(root, ["embedded_epmd.install"], "y\\n")
      assert flags(root, @vm_args) == ["+Q 65536" | @both_flags]
      assert File.read!(Path.join(root, @vm_args)) =~ "## -epmd_module Elixir.Other"
    end

    test "is changed without a question by --yes", %{root: root} do
      write(root, @vm_args, "+Q 65536")
      assert {text, 0} = mix(root, ["embedded_epmd.install", "--yes"])
      refute text =~ "Change #{@vm_args}?"
      assert flags(root, @vm_args) == ["+Q 65536" | @both_flags]
    end

    test "is read as OTP reads it: quotes, and files that it includes", %{root: root} do
      write(root, "rel/more.args", "-epmd_module 'Elixir.EmbeddedEpmd.Discovery'\n")
      write(root, @vm_args, "-start_epmd \"false\" -args_file rel/more.args\n-args_file /nowhere/else.args\n")
      write(root, @remote, "-start_epmd 'fal'se\n")
      assert {text, 0} = mix(root, @install_and_doctor)
      assert text =~ "* #{@vm_args} has all it needs"
      assert text =~ "* #{@vm_args} includes /nowhere/else.args, which cannot be read here: its flags count as well"
      assert text =~ "* #{@remote} has all it needs"
      assert text =~ "warning  #{@vm_args} includes /nowhere/else.args, which cannot be read here."
    end

    test "has the transport of the other, or is offered it", %{root: root} do
      tls = ["-proto_dist inet_tls", "-ssl_dist_optfile '/etc/app/dist 1.conf'"]
      write(root, @vm_args, Enum.join(@both_flags ++ tls, "\n"))
      assert {text, 1} = mix(root, ["embedded_epmd.doctor"])
      assert text =~ "PROBLEM  #{@remote} is missing; it should have -start_epmd false and #{Enum.join(tls, " and ")}."
      write(root, @remote, "-start_epmd false\n")
      assert {text, 1} = mix(root, ["embedded_epmd.doctor"])
      assert text =~ "PROBLEM  #{@remote} does not have #{Enum.join(tls, " and ")}."
      assert text =~ "bin/app rpc, remote, stop and pid cannot connect to a node with another transport."

      assert {_, 0} = mix(root, ~w(do embedded_epmd.install --yes + embedded_epmd.doctor))
      assert flags(root, @remote) == ["-start_epmd false" | tls]

      write(root, @vm_args, Enum.join(@both_flags, "\n"))
      assert {text, 0} = mix(root, ["embedded_epmd.install"], "n\\n")
      assert text =~ "* left #{@vm_args} as it is; it needs:\n\n    + #"
      assert text =~ "    + -proto_dist inet_tls"

      # What env.sh sets holds for both.
      write(root, @remote, "-start_epmd false\n")
      write(root, "rel/env.sh.eex", "export ERL_AFLAGS=\"-proto_dist inet_tls -ssl_dist_optfile /o\"\n")
      assert {_, 0} = mix(root, ["embedded_epmd.doctor"])
    end

    test "with -no_epmd, or with another transport than the other, contradicts", %{root: root} do
      write(root, @vm_args, Enum.join(["-no_epmd" | @both_flags], "\n"))
      assert {text, 1} = mix(root, ["embedded_epmd.install", "--yes"])
      assert text =~ "* #{@vm_args} has -no_epmd, with which OTP asks no discovery module"
      assert {text, 1} = mix(root, ["embedded_epmd.doctor"])
      assert text =~ "PROBLEM  #{@vm_args} has -no_epmd"

      write(root, @vm_args, Enum.join(["-proto_dist inet_tls" | @both_flags], "\n"))
      write(root, @remote, "-start_epmd false\n-proto_dist inet6_tcp\n")
      assert {text, 1} = mix(root, ["embedded_epmd.install", "--yes"])
      assert text =~ "* #{@vm_args} has -proto_dist inet_tls, and remote.vm.args.eex has -proto_dist inet6_tcp"
    end

    test "and contradicts stops all, and each contradiction is told", %{root: root} do
      write(root, @vm_args, "-epmd_module Elixir.Other\n")
      write(root, @remote, "-start_epmd true\n")
      assert {text, 1} = mix(root, ["embedded_epmd.install", "--yes"])
      assert text =~ "* #{@vm_args} has -epmd_module Elixir.Other, another discovery module"
      assert text =~ "* #{@remote} has -start_epmd true, which starts OTP's daemon"
      assert flags(root, @vm_args) == ["-epmd_module Elixir.Other"]
    end
  end
end
