# A module each, so that they run side by side.
for guide <- ["getting_started", "development", "troubleshooting"] do
  defmodule Module.concat(EmbeddedEpmd.GuidesTest, Macro.camelize(guide)) do
    use ExUnit.Case, async: true

    import Support.Guide

    @guide Path.expand("../guides/#{guide}.md", __DIR__)

    test "guides/#{guide}.md does what it says" do
      blocks = blocks(File.read!(@guide))
      assert Enum.count(blocks, &match?({"run", _, _}, &1)) >= 3
      assert Enum.any?(blocks, fn {_, text, _} -> text =~ "#=> " end)
      assert_holds(blocks)
    end
  end
end

defmodule EmbeddedEpmd.GuidesTest do
  use ExUnit.Case, async: true

  import Support.Guide

  test "a guide may say the same twice, and each time it is checked" do
    same = "<!-- run -->\n```sh\necho more >>lines\nwc -l <lines\n#=> 1\n```\n"
    assert_holds(blocks(same <> "<!-- run -->\n```sh\nrm lines\n```\n" <> same))
    assert_raise ExUnit.AssertionError, ~r/expected "1" in:\s+2\n/, fn -> assert_holds(blocks(same <> same)) end
  end
end
